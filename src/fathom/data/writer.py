"""Writing a LeRobot v3.0 dataset: episodes are staged one by one, then assembled into place at once."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from fathom.data.features import DATA_PATH, INDEX_FEATURES, VIDEO_PATH, DatasetInfo, Feature
from fathom.data.joining import Shelf, join_episodes
from fathom.data.staging import Frames, StagedEpisode, stage
from fathom.data.statistics import FeatureStats, picture_stats, to_lists, vector_stats
from fathom.data.tables import episode_table, frame_table, task_table
from fathom.data.video import DEPTH, RGB
from fathom.errors import UserError
from fathom.files import full_disk_is_told, sync, write_json

EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_STORAGE = {"rgb": "video", "depth": "video", "labels": "image"}


class DatasetWriter:
    """Writes one dataset; any number of processes may stage its episodes, one of them finishes it.

    ``root`` does not exist before :meth:`finish` and is complete after it. What is staged lies beside it in
    ``<root>.staging`` and survives a killed process: a new writer with the same arguments goes on from there.
    """

    def __init__(
        self,
        root: str | Path,
        features: Mapping[str, Feature],
        fps: int,
        robot_type: str | None = None,
        *,
        data_file_mb: float = 100,
        video_file_mb: float = 200,
        files_per_chunk: int = 1000,
    ) -> None:
        """Prepares the staging folder, or takes up the one that is there.

        Raises:
            UserError: a dataset is already at ``root``, a feature cannot be stored, or the staged episodes were made
                for another dataset.
        """
        self.root = Path(root)
        if self.root.exists():
            raise UserError(f"{self.root}: something is already here; remove it or choose another folder.")
        self.features = {name: prepared(name, feature, fps) for name, feature in features.items()}
        self.info = DatasetInfo(
            fps=fps,
            features={**self.features, **INDEX_FEATURES},
            chunks_size=files_per_chunk,
            data_files_size_in_mb=data_file_mb,
            video_files_size_in_mb=video_file_mb,
            data_path=DATA_PATH,
            video_path=VIDEO_PATH if any(f.dtype == "video" for f in self.features.values()) else None,
            robot_type=robot_type,
        )
        self.staging = self.root.with_name(f"{self.root.name}.staging")
        self._take_up_staging()

    def stage_episode(self, episode_index: int, frames: Frames, task: str) -> None:
        """Encodes one episode; nothing happens if that number is already staged.

        Args:
            frames: for each feature an array of all frames: colour uint8 (T, H, W, 3), depth float metres (T, H, W),
                labels integers (T, H, W), vectors (T, S). Depth that is NaN or not positive is invalid and comes back
                as the codec's minimum (1 cm).
            task: the instruction.

        Raises:
            UserError: the frames do not fit the features, are not finite, or the disk is full.
        """
        folder = self._folder(episode_index)
        if not folder.exists():
            stage(folder, self.features, int(self.info.fps), frames, task)

    def staged_episodes(self) -> list[int]:
        """The numbers of the episodes that are complete."""
        return sorted(int(folder.name.removeprefix("episode-")) for folder in self.staging.glob("episode-*"))

    def finish(self, splits: Mapping[str, range] | None = None, notes: Mapping[str, Any] | None = None) -> Path:
        """Assembles the staged episodes, renumbered from 0 in their order, and puts the dataset in its place.

        Args:
            splits: for each name a range of the new numbers; by default all episodes are ``train``.
            notes: further JSON files for ``meta/``, by name.

        Raises:
            UserError: nothing is staged, a split does not fit, or the disk is full.
        """
        episodes = [StagedEpisode.load(self._folder(number)) for number in self.staged_episodes()]
        if not episodes:
            raise UserError(f"{self.root}: no episode was recorded, so there is no dataset to write.")
        splits = splits or {"train": range(len(episodes))}
        for name, chosen in splits.items():
            if chosen.step != 1 or not 0 <= chosen.start <= chosen.stop <= len(episodes):
                raise UserError(f"{self.root}: split {name!r} is {chosen}, but there are {len(episodes)} episodes.")
        assembled = self.staging / "assembled"
        shutil.rmtree(assembled, ignore_errors=True)
        with full_disk_is_told(self.root):
            _Assembly(assembled, self.info, episodes).write({name: f"{r.start}:{r.stop}" for name, r in splits.items()})
            for name, note in (notes or {}).items():
                write_json(assembled / "meta" / name, note)
            for path in sorted(assembled.rglob("*")):
                sync(path)
        assembled.rename(self.root)
        sync(self.root.parent)
        shutil.rmtree(self.staging)
        return self.root

    def _folder(self, episode_index: int) -> Path:
        return self.staging / f"episode-{episode_index:06d}"

    def _take_up_staging(self) -> None:
        # what must not change between a run and the one that takes it up
        plan = {"fps": self.info.fps, "features": {name: f.to_json() for name, f in self.features.items()}}
        path = self.staging / "writer.json"
        if not path.exists():
            write_json(path, plan)
        elif json.loads(path.read_text()) != json.loads(json.dumps(plan)):
            raise UserError(
                f"{self.staging}: holds episodes recorded with other features or another rate; remove it to start "
                "again, or use the earlier settings."
            )


def prepared(name: str, feature: Feature, fps: int) -> Feature:
    """The feature with what LeRobot notes about its video.

    Raises:
        UserError: it has a name or a kind that cannot be written.
    """
    if "/" in name or name in INDEX_FEATURES:
        raise UserError(f"feature {name!r}: the name is reserved or holds a '/'; choose another one.")
    if feature.kind == "text" or (feature.kind == "vector" and len(feature.shape) != 1):
        raise UserError(f"feature {name!r}: only pictures and vectors can be written, this is {feature.shape}.")
    if feature.kind == "vector":
        return feature
    if feature.dtype != _STORAGE[feature.kind]:
        raise UserError(f"feature {name!r}: {feature.kind} is stored as {_STORAGE[feature.kind]}, not {feature.dtype}.")
    if feature.dtype == "image":
        return feature
    height, width, _ = feature.picture_shape
    encoding = DEPTH if feature.kind == "depth" else RGB
    return replace(feature, info={**feature.info, **encoding.to_info(height, width, fps)})


class _Assembly:
    """The files of one dataset under ``root``, made from staged episodes."""

    def __init__(self, root: Path, info: DatasetInfo, episodes: list[StagedEpisode]) -> None:
        self.root = root
        self.info = info
        self.episodes = episodes
        self.tasks = list(dict.fromkeys(episode.task for episode in episodes))
        self.rows: list[dict[str, Any]] = []  # of the episode table

    def write(self, splits: Mapping[str, str]) -> None:
        stats = self._write_data()
        for name, feature in self.info.features.items():
            if feature.dtype == "video":
                for row, place in zip(self.rows, join_episodes(self.root, self.info, name, self.episodes), strict=True):
                    row.update(place)
            if feature.dtype in ("video", "image"):
                stats[name] = self._picture_stats(name, feature)
        for row in self.rows:
            row.update({f"meta/episodes/{name}": 0 for name in ("chunk_index", "file_index")})
        self._write_parquet(EPISODES_PATH.format(chunk_index=0, file_index=0), episode_table(self.rows))
        self._write_parquet("meta/tasks.parquet", task_table(self.tasks))
        write_json(self.root / "meta" / "stats.json", {name: to_lists(values) for name, values in stats.items()})
        info = replace(
            self.info,
            total_episodes=len(self.episodes),
            total_frames=sum(episode.length for episode in self.episodes),
            total_tasks=len(self.tasks),
            splits=dict(splits),
        )
        write_json(self.root / "meta" / "info.json", info.to_json())

    def _write_data(self) -> dict[str, FeatureStats]:
        """The frames' tables, one row group per episode; returns the statistics of all vectors."""
        shelf = Shelf(self.info.data_files_size_in_mb, self.info.chunks_size)
        vectors = [name for name, feature in self.info.features.items() if feature.kind == "vector"]
        pictures = [name for name, feature in self.info.features.items() if feature.dtype == "image"]
        values: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in vectors}
        file: pq.ParquetWriter | None = None
        begin = 0
        for number, episode in enumerate(self.episodes):
            indices = self._indices(number, episode, begin)
            table = frame_table(episode.columns(), self.info.features, indices)
            place = shelf.put(table.nbytes)
            path = self.root / self.info.data_path.format(**place)
            if file is None or not path.exists():
                if file is not None:
                    file.close()
                path.parent.mkdir(parents=True, exist_ok=True)
                dictionaries = [name for name in vectors if self.info.features[name].shape == (1,)]
                file = pq.ParquetWriter(path, table.schema, use_dictionary=dictionaries if pictures else True)
            file.write_table(table)
            row: dict[str, Any] = {"episode_index": number, "tasks": [episode.task], "length": episode.length}
            row |= {f"data/{name}": value for name, value in place.items()}
            row |= {"dataset_from_index": begin, "dataset_to_index": begin + episode.length}
            self.rows.append(row)
            for name in vectors:
                values[name].append(_numpy(table[name], self.info.features[name]))
                self._note_stats(row, name, vector_stats(values[name][-1]))
            begin += episode.length
        if file is not None:
            file.close()
        return {name: vector_stats(np.concatenate(parts)) for name, parts in values.items()}

    def _indices(self, number: int, episode: StagedEpisode, begin: int) -> dict[str, np.ndarray[Any, Any]]:
        frames = np.arange(episode.length, dtype=np.int64)
        return {
            "timestamp": (frames / self.info.fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full_like(frames, number),
            "index": frames + begin,
            "task_index": np.full_like(frames, self.tasks.index(episode.task)),
        }

    def _picture_stats(self, name: str, feature: Feature) -> FeatureStats:
        total: np.ndarray[Any, Any] | int = 0
        for row, episode in zip(self.rows, self.episodes, strict=True):
            counts = episode.counts(name)
            total = total + counts
            self._note_stats(row, name, picture_stats(counts, feature, episode.length))
        return picture_stats(np.asarray(total), feature, sum(episode.length for episode in self.episodes))

    def _note_stats(self, row: dict[str, Any], name: str, stats: FeatureStats) -> None:
        row.update({f"stats/{name}/{key}": value for key, value in to_lists(stats).items()})

    def _write_parquet(self, name: str, table: Any) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)


def _numpy(column: Any, feature: Feature) -> np.ndarray[Any, Any]:
    array = column.combine_chunks()
    values = array.to_numpy() if feature.shape == (1,) else array.flatten().to_numpy()
    return values.reshape(len(column), -1)
