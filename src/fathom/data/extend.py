"""Adding a feature to a dataset that is already there; everything else in it stays as it is."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fathom.data.columns import add_column
from fathom.data.features import VIDEO_PATH, DatasetInfo, Feature
from fathom.data.joining import join_episodes
from fathom.data.metadata import read_episodes, read_table
from fathom.data.staging import StagedEpisode, stage
from fathom.data.statistics import FeatureStats, picture_stats, to_lists, vector_stats
from fathom.data.writer import prepared
from fathom.errors import UserError
from fathom.files import atomically, full_disk_is_told, sync, write_json

Row = dict[str, Any]
_Put = tuple[list[Row], list[FeatureStats], FeatureStats]
"""Of each episode where it lies and its statistics, and those of all."""


class FeatureAdder:
    """Adds one feature, depth video or vectors; any number of processes may stage its episodes, one finishes it.

    What is staged lies beside the dataset in ``<root>.adding-<name>`` and survives a killed process. The dataset shows
    the feature when ``meta/info.json`` names it, which is written last: until then a reader sees it as it was.
    """

    def __init__(self, root: str | Path, name: str, feature: Feature, made_from: Mapping[str, Any]) -> None:
        """Prepares the staging folder, or takes up the one that is there.

        Args:
            made_from: what the feature is made from; a run that goes on must have the same.

        Raises:
            UserError: there is no dataset, it has the feature already, or what is staged was made from something else.
        """
        self.root, self.name = Path(root), name
        self.info = DatasetInfo.load(self.root)
        if name in self.info.features:
            raise UserError(f"{self.root}: the dataset has a feature {name!r} already; choose another name.")
        self.feature = prepared(name, feature, int(self.info.fps))
        self.episodes = read_episodes(self.root, self.info)
        self.staging = self.root.with_name(f"{self.root.name}.adding-{name.rsplit('.', 1)[-1]}")
        self._take_up_staging({"feature": self.feature.to_json(), "made_from": dict(made_from)})

    @property
    def missing(self) -> list[int]:
        """The numbers of the episodes that are not staged yet."""
        return [episode.index for episode in self.episodes if not self._folder(episode.index).exists()]

    def stage(self, episode: int, frames: NDArray[Any], note: Mapping[str, Any]) -> None:
        """Encodes one episode; nothing happens if it is staged.

        Args:
            frames: all of them: depth float (T, H, W), or vectors (T, S).
            note: what is to be remembered of this episode, for :attr:`notes`.

        Raises:
            UserError: the frames do not fit the feature or the episode, or the disk is full.
        """
        length = next(known.length for known in self.episodes if known.index == episode)
        if len(frames) != length:
            raise UserError(f"episode {episode}: {len(frames)} frames of {self.name}, but it has {length} frames.")
        write_json(self.staging / f"note-{episode:06d}.json", dict(note))
        stage(self._folder(episode), {self.name: self.feature}, int(self.info.fps), {self.name: frames}, task="")

    def discard(self, episode: int) -> None:
        """Forget what is staged of one episode."""
        shutil.rmtree(self._folder(episode), ignore_errors=True)
        (self.staging / f"note-{episode:06d}.json").unlink(missing_ok=True)

    @property
    def notes(self) -> dict[int, dict[str, Any]]:
        """What was noted of each staged episode."""
        found = sorted(self.staging.glob("note-*.json"))
        return {int(path.stem.removeprefix("note-")): json.loads(path.read_text()) for path in found}

    def finish(self, notes: Mapping[str, Any]) -> None:
        """Puts the feature into the dataset.

        Args:
            notes: further JSON files for ``meta/``, by name.

        Raises:
            UserError: an episode is missing, or the disk is full.
        """
        if missing := self.missing:
            raise UserError(f"{self.root}: episodes {missing} of {self.name} are missing.")
        staged = [StagedEpisode.load(self._folder(episode.index)) for episode in self.episodes]
        info = replace(
            self.info,
            features={**self.info.features, self.name: self.feature},
            video_path=self.info.video_path or VIDEO_PATH,
        )
        with full_disk_is_told(self.root):
            put = self._put_vectors if self.feature.kind == "vector" else self._put_videos
            rows, stats, overall = put(info, staged)
            for row, own in zip(rows, stats, strict=True):
                row.update({f"stats/{self.name}/{key}": value for key, value in to_lists(own).items()})
            self._extend_episode_table({e.index: row for e, row in zip(self.episodes, rows, strict=True)})
            stats_path = self.root / "meta" / "stats.json"
            write_json(stats_path, {**json.loads(stats_path.read_text()), self.name: to_lists(overall)})
            for name, note in notes.items():
                write_json(self.root / "meta" / name, note)
            raw = json.loads((self.root / "meta" / "info.json").read_text())
            features = {**raw["features"], self.name: self.feature.to_json()}
            write_json(self.root / "meta" / "info.json", {**raw, "video_path": info.video_path, "features": features})
        shutil.rmtree(self.staging)

    def _put_videos(self, info: DatasetInfo, staged: list[StagedEpisode]) -> _Put:
        shutil.rmtree(self.root / "videos" / self.name, ignore_errors=True)
        rows = join_episodes(self.root, info, self.name, staged)
        for path in (self.root / "videos" / self.name).rglob("*.mp4"):
            sync(path)
        counts = [episode.counts(self.name) for episode in staged]
        stats = [picture_stats(own, self.feature, one.length) for own, one in zip(counts, staged, strict=True)]
        total = np.sum(counts, axis=0)
        return rows, stats, picture_stats(total, self.feature, sum(episode.length for episode in staged))

    def _put_vectors(self, info: DatasetInfo, staged: list[StagedEpisode]) -> _Put:
        add_column(self.name, self.feature, self.episodes, staged)
        columns = [episode.columns()[self.name].combine_chunks() for episode in staged]
        values = [c.to_numpy() if self.feature.shape == (1,) else c.flatten().to_numpy() for c in columns]
        frames = [own.reshape(-1, *self.feature.shape) for own in values]
        return [{} for _ in staged], [vector_stats(own) for own in frames], vector_stats(np.concatenate(frames))

    def _extend_episode_table(self, rows: Mapping[int, Row]) -> None:
        for path in sorted((self.root / "meta" / "episodes").glob("*/*.parquet")):
            table = read_table(path)
            chosen = [rows[index] for index in table["episode_index"].to_pylist()]
            with atomically(path) as temporary:
                pq.write_table(_with_columns(table, chosen), temporary)

    def _folder(self, episode: int) -> Path:
        return self.staging / f"episode-{episode:06d}"

    def _take_up_staging(self, plan: Row) -> None:
        path = self.staging / "plan.json"
        if not path.exists():
            write_json(path, plan)
        elif json.loads(path.read_text()) != json.loads(json.dumps(plan)):
            raise UserError(
                f"{self.staging}: holds episodes of {self.name} made from something else; remove it to start again, "
                "or use the earlier settings."
            )


def _with_columns(table: pa.Table, rows: Sequence[Row]) -> pa.Table:
    """The table with the rows' entries as further columns, or in place of those that a killed run left."""
    for name in rows[0] if rows else ():
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, pa.array([row[name] for row in rows]))
    return table
