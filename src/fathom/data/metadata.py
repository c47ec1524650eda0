"""The episodes and tasks of a dataset, from ``meta/episodes`` and ``meta/tasks.parquet``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fathom.data.features import DatasetInfo
from fathom.errors import UserError

Stats = dict[str, dict[str, np.ndarray[Any, Any]]]


@dataclass(frozen=True)
class Episode:
    """One episode and where its frames lie.

    Attributes:
        index: its number in the dataset.
        tasks: its instructions.
        start: the dataset's index of its first frame; ``start + length`` is that after its last.
        data: the parquet file with its rows.
        videos: for each video feature, the file and the time in seconds at which the episode begins there.
    """

    index: int
    tasks: tuple[str, ...]
    length: int
    start: int
    data: Path
    videos: Mapping[str, tuple[Path, float]]


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A parquet file's table.

    Raises:
        UserError: the file is missing, damaged or lacks a column.
    """
    with open_parquet(path) as file:
        missing = [name for name in columns or () if name not in file.schema_arrow.names]
        if missing:
            raise UserError(f"{path}: column {missing[0]!r} is missing; restore the file from the dataset's source.")
        try:
            return file.read(columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from error


def open_parquet(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise UserError(f"{path}: this file of the dataset is missing; copy it from the dataset's source.")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: BaseException) -> UserError:
    reason = str(error).splitlines()[0].rstrip(". ")
    return UserError(f"{path}: truncated or damaged ({reason}); copy it again from the dataset's source.")


def read_episodes(root: Path, info: DatasetInfo) -> list[Episode]:
    """All episodes, in order."""
    files = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise UserError(f"{root / 'meta' / 'episodes'}: there is no episode file; the dataset is incomplete.")
    videos = [name for name, feature in info.features.items() if feature.dtype == "video"]
    columns = ["episode_index", "tasks", "length", "dataset_from_index", "data/chunk_index", "data/file_index"]
    for video in videos:
        columns += [f"videos/{video}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    rows = [row for file in files for row in read_table(file, columns).to_pylist()]
    return [_episode(row, root, info, videos) for row in sorted(rows, key=lambda row: row["episode_index"])]


def _episode(row: Mapping[str, Any], root: Path, info: DatasetInfo, videos: Sequence[str]) -> Episode:
    def place(prefix: str) -> dict[str, int]:
        return {name: row[f"{prefix}/{name}"] for name in ("chunk_index", "file_index")}

    assert info.video_path is not None or not videos
    return Episode(
        index=row["episode_index"],
        tasks=tuple(row["tasks"]),
        length=row["length"],
        start=row["dataset_from_index"],
        data=root / info.data_path.format(**place("data")),
        videos={
            video: (
                root / str(info.video_path).format(video_key=video, **place(f"videos/{video}")),
                row[f"videos/{video}/from_timestamp"],
            )
            for video in videos
        },
    )


def read_tasks(root: Path) -> list[str]:
    """The instructions; a frame's ``task_index`` counts in this list."""
    path = root / "meta" / "tasks.parquet"
    table = read_table(path)
    # lerobot writes a pandas index, which has no name of its own in datasets converted from v2.1
    name = "task" if "task" in table.column_names else "__index_level_0__"
    if not {name, "task_index"} <= set(table.column_names):
        raise UserError(f"{path}: columns 'task' and 'task_index' are expected; restore the file.")
    return [row[name] for row in sorted(table.to_pylist(), key=lambda row: row["task_index"])]


def read_stats(root: Path) -> Stats:
    """``meta/stats.json``: for each feature mean, std, min, max, count and quantiles q01…q99."""
    path = root / "meta" / "stats.json"
    if not path.is_file():
        raise UserError(f"{path}: the statistics are missing; restore the file from the dataset's source.")
    try:
        raw = json.loads(path.read_text())
        return {key: {name: np.asarray(value) for name, value in stats.items()} for key, stats in raw.items()}
    except (ValueError, AttributeError) as error:
        raise damaged(path, error) from error
