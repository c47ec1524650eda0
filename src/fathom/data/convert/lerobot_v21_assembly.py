"""The files of a LeRobot v3.0 dataset from the checked files of v2.1 episodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fathom.data.convert.conversion import RECORD
from fathom.data.features import DATA_PATH, VERSION, VIDEO_PATH, DatasetInfo, Feature
from fathom.data.joining import Shelf, join_episodes
from fathom.data.staging import StagedEpisode
from fathom.data.statistics import FeatureStats, to_lists, vector_stats
from fathom.data.tables import episode_table, task_table
from fathom.data.writer import EPISODES_PATH
from fathom.files import sync, write_json

Row = dict[str, Any]


class OldDataset(Protocol):
    """What the assembly needs of :class:`~fathom.data.convert.lerobot_v21.V21Dataset`."""

    @property
    def info(self) -> Mapping[str, Any]: ...
    @property
    def fps(self) -> float: ...
    @property
    def features(self) -> Mapping[str, Feature]: ...
    @property
    def tasks(self) -> list[str]: ...
    @property
    def videos(self) -> list[str]: ...
    @property
    def episode_stats(self) -> Mapping[int, Mapping[str, Any]]: ...
    @property
    def stats(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class StagedFiles(StagedEpisode):
    """A checked episode, with its old number and all its tasks."""

    index: int
    tasks: tuple[str, ...]

    @classmethod
    def at(cls, folder: Path, row: Mapping[str, Any]) -> "StagedFiles":
        """The episode in ``folder``, of which ``row`` of ``episodes.jsonl`` tells."""
        tasks = tuple(row["tasks"])
        return cls(folder, row["length"], tasks[0] if tasks else "", row["episode_index"], tasks)


def assemble(dataset: OldDataset, episodes: Sequence[StagedFiles], root: Path, record: Mapping[str, Any]) -> None:
    """Write the whole dataset under ``root``, ``meta/info.json`` last."""
    features = {name: _as_stored(name, f, episodes[0], dataset.fps) for name, f in dataset.features.items()}
    info = DatasetInfo(dataset.fps, features, video_path=VIDEO_PATH if dataset.videos else None)
    rows, stats = _write_data(dataset, info, episodes, root)
    for name in dataset.videos:
        for row, place in zip(rows, join_episodes(root, info, name, episodes), strict=True):
            row.update(place)
    stats |= _picture_stats(dataset, episodes)
    for row in rows:
        row.update({f"meta/episodes/{name}": 0 for name in ("chunk_index", "file_index")})
    _write_parquet(root / EPISODES_PATH.format(chunk_index=0, file_index=0), episode_table(_complete(rows)))
    _write_parquet(root / "meta" / "tasks.parquet", task_table(dataset.tasks))
    write_json(root / "meta" / "stats.json", {name: to_lists(values) for name, values in stats.items()})
    write_json(root / "meta" / RECORD, dict(record))
    write_json(root / "meta" / "info.json", _new_info(dataset, info, episodes))
    for path in sorted(root.rglob("*")):
        sync(path)


def _write_data(
    dataset: OldDataset, info: DatasetInfo, episodes: Sequence[StagedFiles], root: Path
) -> tuple[list[Row], dict[str, FeatureStats]]:
    """The tables, one row group per episode; what is known of each episode, and the statistics of all numbers."""
    shelf = Shelf(info.data_files_size_in_mb, info.chunks_size)
    numbers = [name for name, f in info.features.items() if f.kind == "vector" and len(f.shape) == 1]
    values: dict[str, list[NDArray[Any]]] = {name: [] for name in numbers}
    rows: list[Row] = []
    file: pq.ParquetWriter | None = None
    begin = 0
    for number, episode in enumerate(episodes):
        table = _renumbered(episode.columns(), number, begin)
        place = shelf.put(table.nbytes)
        path = root / info.data_path.format(**place)
        if file is None or not path.exists():
            if file is not None:
                file.close()
            path.parent.mkdir(parents=True, exist_ok=True)
            file = pq.ParquetWriter(path, table.schema)
        file.write_table(table.cast(file.schema))
        row: Row = {"episode_index": number, "tasks": list(episode.tasks), "length": episode.length}
        row |= {f"data/{name}": value for name, value in place.items()}
        row |= {"dataset_from_index": begin, "dataset_to_index": begin + episode.length}
        known = {
            name: value for name, value in dataset.episode_stats.get(episode.index, {}).items() if name in info.features
        }
        for name in numbers:
            values[name].append(_numbers(table[name]))
            known[name] = to_lists(vector_stats(values[name][-1]))
        row |= {f"stats/{name}/{key}": value for name, stats in known.items() for key, value in stats.items()}
        rows.append(row)
        begin += episode.length
    if file is not None:
        file.close()
    return rows, {name: vector_stats(np.concatenate(parts)) for name, parts in values.items()}


def _renumbered(table: pa.Table, number: int, begin: int) -> pa.Table:
    frames = np.arange(table.num_rows, dtype=np.int64)
    for name, column in {
        "frame_index": frames,
        "episode_index": np.full_like(frames, number),
        "index": frames + begin,
    }.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(column))
    return table


def _numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    array = column.combine_chunks()
    rows = len(array)
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False).reshape(rows, -1)


def _picture_stats(dataset: OldDataset, episodes: Sequence[StagedFiles]) -> dict[str, FeatureStats]:
    """Those of the pictures: v2.0's of the whole, or v2.1's of the kept episodes taken together."""
    made: dict[str, FeatureStats] = {}
    for name, feature in dataset.features.items():
        if feature.dtype not in ("video", "image"):
            continue
        known = [dataset.episode_stats.get(episode.index, {}).get(name) for episode in episodes]
        parts = [{key: np.asarray(value) for key, value in stats.items()} for stats in known if stats]
        if len(parts) == len(episodes):
            made[name] = _together(parts)
        elif name in dataset.stats:
            made[name] = {key: np.asarray(value) for key, value in dataset.stats[name].items()}
    return made


def _together(parts: Sequence[FeatureStats]) -> FeatureStats:
    """Statistics of several sets from those of each: means by their counts, and variances about the common mean."""
    counts = np.array([int(part["count"].reshape(-1)[0]) for part in parts])
    shares = (counts / counts.sum()).reshape(-1, 1, 1, 1)
    means, stds = (np.stack([part[key].reshape(-1, 1, 1) for part in parts]) for key in ("mean", "std"))
    mean = (shares * means).sum(axis=0)
    return {
        "min": np.stack([part["min"].reshape(-1, 1, 1) for part in parts]).min(axis=0),
        "max": np.stack([part["max"].reshape(-1, 1, 1) for part in parts]).max(axis=0),
        "mean": mean,
        "std": np.sqrt((shares * (stds**2 + (means - mean) ** 2)).sum(axis=0)),
        "count": np.array([counts.sum()]),
    }


def _complete(rows: Sequence[Row]) -> list[Row]:
    """The rows with those columns alone that all of them have."""
    shared = set(rows[0]).intersection(*rows)
    return [{name: value for name, value in row.items() if name in shared} for row in rows]


def _as_stored(name: str, feature: Feature, episode: StagedEpisode, fps: float) -> Feature:
    """The feature with what is now true of its video, which may have been encoded anew."""
    if feature.dtype != "video":
        return feature
    with av.open(str(episode.video(name))) as container:
        stream = container.streams.video[0]
        codec, pixels = stream.codec_context.codec.canonical_name, stream.codec_context.pix_fmt
    return replace(feature, info={**feature.info, "video.codec": codec, "video.pix_fmt": pixels, "video.fps": fps})


def _new_info(dataset: OldDataset, info: DatasetInfo, episodes: Sequence[StagedFiles]) -> Row:
    """``info.json`` in its new form; what else the old one had is kept."""
    gone = ("total_chunks", "total_videos")
    kept = {name: value for name, value in dataset.info.items() if name not in gone}
    old = [episode.index for episode in episodes]
    splits = {name: _new_range(str(bounds), old) for name, bounds in (dataset.info.get("splits") or {}).items()}
    return {
        **kept,
        "codebase_version": VERSION,
        "features": {name: feature.to_json() for name, feature in info.features.items()},
        "total_episodes": len(episodes),
        "total_frames": sum(episode.length for episode in episodes),
        "total_tasks": len(dataset.tasks),
        "data_files_size_in_mb": info.data_files_size_in_mb,
        "video_files_size_in_mb": info.video_files_size_in_mb,
        "data_path": DATA_PATH,
        "video_path": info.video_path,
        "splits": splits or {"train": f"0:{len(episodes)}"},
    }


def _new_range(bounds: str, old: Sequence[int]) -> str:
    """``first:last`` in the new numbers, where ``old`` are the old numbers of the episodes that are kept."""
    first, last = (int(bound) for bound in bounds.split(":"))
    return f"{sum(number < first for number in old)}:{sum(number < last for number in old)}"


def _write_parquet(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
