"""LeRobot v2.1 (and v2.0) to v3.0: the files of the episodes are checked, and joined as they are.

v2.1 keeps one parquet file and one video per camera for every episode; v3.0 joins them into larger files and keeps what
is known of episodes in tables. Numbers are not touched, and videos are not encoded again unless their frames are not
in the order in which they are shown.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from fathom.config import read_json
from fathom.data.convert.conversion import Converted, Place, keep_to_plan, stage_all
from fathom.data.convert.lerobot_v21_assembly import StagedFiles, assemble
from fathom.data.features import Feature
from fathom.data.metadata import read_table
from fathom.data.video import RGB, encode_video
from fathom.errors import UserError
from fathom.files import full_disk_is_told, sync, write_file, write_json

VERSIONS = ("v2.0", "v2.1")


@dataclass(frozen=True)
class V21Dataset:
    """What the files in ``meta/`` say.

    Attributes:
        info: the content of ``info.json``.
        episodes: one row of ``episodes.jsonl`` each.
        tasks: the instructions, by ``task_index``.
        episode_stats: statistics by episode (v2.1); empty in v2.0.
        stats: statistics of the whole (v2.0); empty in v2.1.
    """

    root: Path
    info: Mapping[str, Any]
    features: Mapping[str, Feature]
    episodes: Sequence[Mapping[str, Any]]
    tasks: list[str]
    episode_stats: Mapping[int, Mapping[str, Any]]
    stats: Mapping[str, Any]

    @classmethod
    def load(cls, root: Path) -> "V21Dataset":
        """Reads ``meta/``.

        Raises:
            UserError: there is no dataset, it is of another version, or a file is missing or damaged.
        """
        path = root / "meta" / "info.json"
        info = read_json(path, "LeRobot dataset")
        version = info.get("codebase_version")
        if version not in VERSIONS:
            hint = (
                "it needs no conversion" if str(version).startswith("v3.") else "convert it to v2.1 with lerobot first"
            )
            raise UserError(f"{root}: a LeRobot {version} dataset, but {' or '.join(VERSIONS)} is expected; {hint}.")
        try:
            features = {name: Feature.from_json(feature) for name, feature in info["features"].items()}
            episodes = _lines(root, "episodes.jsonl", "episode_index", "length", "tasks")
            tasks = {row["task_index"]: row["task"] for row in _lines(root, "tasks.jsonl", "task_index", "task")}
            stats_path = root / "meta" / "stats.json"
            stats = read_json(stats_path, "statistics") if stats_path.is_file() else {}
            own = _lines(root, "episodes_stats.jsonl", "episode_index", "stats") if version == "v2.1" else []
            info = {**info, "fps": float(info["fps"]), "data_path": str(info["data_path"])}
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: a field is missing or of the wrong type ({error!r}); restore the file."
            ) from error
        if sorted(tasks) != list(range(len(tasks))):
            raise UserError(f"{root}/meta/tasks.jsonl: task_index should count 0, 1, 2 …; restore the file.")
        by_episode = {row["episode_index"]: row["stats"] for row in own}
        in_order = sorted(episodes, key=lambda row: row["episode_index"])
        return cls(root, info, features, in_order, [tasks[i] for i in range(len(tasks))], by_episode, stats)

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(self.info["fps"])

    @property
    def videos(self) -> list[str]:
        """The features that are videos."""
        return [name for name, feature in self.features.items() if feature.dtype == "video"]

    def file(self, template: str, episode: int, **names: str) -> Path:
        """The file of one episode, by the template in ``info.json``."""
        chunk = episode // int(self.info.get("chunks_size", 1000))
        return self.root / str(self.info[template]).format(episode_chunk=chunk, episode_index=episode, **names)


def convert_lerobot_v21(
    source: str | Path, out: str | Path, *, processes: int = 1, console: Console | None = None
) -> Converted:
    """Convert a LeRobot v2.1 or v2.0 dataset to v3.0 at ``out``; run it again after an interruption and it goes on.

    Episodes whose files are missing, damaged or contradict each other are skipped and returned, and stand in
    ``meta/conversion.json``; the others keep their order and are numbered anew. The statistics of numbers are computed
    again, since v2.1 has no quantiles; those of pictures are taken over.

    Raises:
        UserError: there is no such dataset, none of its episodes can be read, something is at ``out`` already, or the
            disk is full.
    """
    dataset, target = V21Dataset.load(Path(source)), Path(out)
    if target.exists():
        raise UserError(f"{target}: something is already here; remove it or choose another folder.")
    staging = target.with_name(f"{target.name}.staging")
    keep_to_plan(staging, {"source": str(dataset.root.resolve()), "settings": "LeRobot v2.1"})
    places = [
        Place(row["episode_index"], f"episode {row['episode_index']}", dataset.root, row["length"])
        for row in dataset.episodes
    ]
    staged = [place.number for place in places if _folder(staging, place.number).exists()]
    skipped = stage_all(_stage, (dataset, staging), places, staged, processes, console)
    kept = [row for row in dataset.episodes if _folder(staging, row["episode_index"]).exists()]
    if not kept:
        shutil.rmtree(staging)
        first = next(iter(skipped.items()), ("it", "it has no episodes"))
        raise UserError(f"{dataset.root}: no episode can be converted; {first[0]}: {first[1]}")
    files = [StagedFiles.at(_folder(staging, row["episode_index"]), row) for row in kept]
    assembled = staging / "assembled"
    shutil.rmtree(assembled, ignore_errors=True)
    with full_disk_is_told(target):
        assemble(dataset, files, assembled, {"source": dataset.root.name, "skipped": skipped})
        assembled.rename(target)
        sync(target.parent)
    shutil.rmtree(staging)
    return Converted(len(kept), skipped)


def _stage(dataset: V21Dataset, staging: Path, place: Place) -> None:
    """Check one episode and put its table and its videos aside: what a worker does."""
    length = place.at
    table = read_table(dataset.file("data_path", place.number))
    check_table(dataset, table, length)
    folder = _folder(staging, place.number)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with full_disk_is_told(folder):
            temporary.mkdir(parents=True)
            pq.write_table(table, temporary / "frames.parquet")
            for name in dataset.videos:
                video = dataset.file("video_path", place.number, video_key=name)
                _put_video(dataset, name, video, length, temporary / f"{name}.mp4")
            write_json(temporary / "episode.json", {"length": length})
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_table(dataset: V21Dataset, table: pa.Table, length: int) -> None:
    """Refuse an episode whose rows are not what is said of them.

    Raises:
        UserError: a column is missing, or the number of rows or their times are wrong.
    """
    wanted = [name for name, feature in dataset.features.items() if feature.dtype != "video"]
    if missing := [name for name in wanted if name not in table.column_names]:
        raise UserError(f"its table has no column {missing[0]!r}")
    if table.num_rows != length:
        raise UserError(f"its table has {table.num_rows} frames, but episodes.jsonl says {length}")
    times = np.asarray(table["timestamp"].to_numpy(), dtype=np.float64)
    if (still := np.flatnonzero(np.diff(times) <= 0)).size:
        raise UserError(f"the timestamp of frame {still[0] + 1} is not after that of the one before")
    off = np.flatnonzero(np.abs(times * dataset.fps - np.arange(length)) > 0.5)
    if off.size:
        expected = off[0] / dataset.fps
        raise UserError(f"the timestamp of frame {off[0]} is {times[off[0]]:.3f} s, but {expected:.3f} s is expected")


def _put_video(dataset: V21Dataset, name: str, video: Path, length: int, target: Path) -> None:
    """The video itself, or one encoded anew where it cannot be joined as it is."""
    if not video.is_file():
        raise UserError(f"the video of {name} is missing")
    try:
        count, in_order = _packets(video)
        if count != length:
            raise UserError(f"the video of {name} has {count} frames, but the table has {length}: one of them is cut")
        if in_order:
            shutil.copyfile(video, target)
            sync(target)
            return
        if dataset.features[name].kind != "rgb":
            raise UserError(f"the depth video of {name} has its frames out of order, and would lose by a new encoding")
        pictures = np.stack([frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in _frames(video)])
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise UserError(f"the video of {name} is truncated or damaged ({error})") from error
    write_file(target, encode_video(pictures, int(dataset.fps), RGB))


def _packets(video: Path) -> tuple[int, bool]:
    """How many frames a video has, and whether they are stored as they are shown, so that packets can be joined."""
    with av.open(str(video)) as container:
        times = [-1 if packet.pts is None else packet.pts for packet in container.demux(video=0) if packet.size]
    return len(times), all(before < after for before, after in pairwise(times))


def _frames(video: Path) -> Iterator[av.VideoFrame]:
    with av.open(str(video)) as container:
        yield from container.decode(video=0)


def _folder(staging: Path, episode: int) -> Path:
    return staging / f"episode-{episode:06d}"


def _lines(root: Path, name: str, *keys: str) -> list[dict[str, Any]]:
    """The rows of a JSON lines file.

    Raises:
        UserError: the file is missing, or a line is damaged or lacks a key.
    """
    path = root / "meta" / name
    if not path.is_file():
        raise UserError(f"{path}: missing; copy it from the dataset's source.")
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            [row[key] for key in keys]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: not readable ({error!r}); restore the file.") from error
        rows.append(row)
    return rows
