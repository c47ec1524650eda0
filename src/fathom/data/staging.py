"""Episodes on their way into a dataset: each one complete in a folder of its own, made by any process.

``<root>.staging/`` holds ``writer.json`` (what the dataset will hold) and one folder per finished episode with its
columns, its encoded videos and the counts for its statistics. A folder is renamed into place when it is complete, so
that a process killed at any time loses at most the episode it was writing.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fathom.data.features import Feature
from fathom.data.images import encode_labels
from fathom.data.statistics import count_levels
from fathom.data.video import DEPTH, RGB, encode_video
from fathom.errors import UserError
from fathom.files import full_disk_is_told, sync, write_file, write_json

Frames = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class StagedEpisode:
    """One finished episode in the staging folder."""

    folder: Path
    length: int
    task: str

    @classmethod
    def load(cls, folder: Path) -> "StagedEpisode":
        facts = json.loads((folder / "episode.json").read_text())
        return cls(folder, facts["length"], facts["task"])

    def columns(self) -> pa.Table:
        return pq.read_table(self.folder / "frames.parquet")

    def video(self, name: str) -> Path:
        return self.folder / f"{name}.mp4"

    def counts(self, name: str) -> NDArray[np.int64]:
        with np.load(self.folder / "counts.npz") as counts:
            return np.asarray(counts[name])


def stage(folder: Path, features: Mapping[str, Feature], fps: int, frames: Frames, task: str) -> None:
    """Checks an episode, encodes it and puts it at ``folder`` in one step."""
    length = check_frames(folder.name, features, frames)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with full_disk_is_told(folder):
            temporary.mkdir(parents=True)
            _write(temporary, features, fps, frames, length, task)
            sync(temporary)
            if not folder.exists():  # another process may have been faster
                temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: Path, features: Mapping[str, Feature], fps: int, frames: Frames, length: int, task: str) -> None:
    columns: dict[str, pa.Array] = {}
    counts: dict[str, NDArray[np.int64]] = {}
    for name, feature in features.items():
        values = frames[name]
        if feature.kind == "vector":
            columns[name] = vector_column(values.astype(feature.dtype, copy=False))
        elif feature.kind == "labels":
            columns[name] = image_column([encode_labels(labels) for labels in values.reshape(values.shape[:3])])
            counts[name] = count_levels(values, feature)
        else:
            depth = feature.kind == "depth"
            pictures = feature.depth_codec.encode(values.reshape(values.shape[:3])) if depth else values
            write_file(folder / f"{name}.mp4", encode_video(pictures, fps, DEPTH if depth else RGB))
            counts[name] = count_levels(pictures, feature)
    pq.write_table(pa.table(columns), folder / "frames.parquet", use_dictionary=False)
    sync(folder / "frames.parquet")
    np.savez_compressed(folder / "counts.npz", **counts)  # type: ignore[arg-type]
    sync(folder / "counts.npz")
    write_json(folder / "episode.json", {"length": length, "task": task})


def vector_column(values: NDArray[Any]) -> pa.Array:
    """(frames, S) as fixed-size lists; (frames, 1) and (frames,) as plain values, as in LeRobot."""
    flat = pa.array(values.reshape(-1))
    size = values.shape[1] if values.ndim == 2 else 1
    return flat if size == 1 else pa.FixedSizeListArray.from_arrays(flat, size)


def image_column(files: list[bytes]) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": content, "path": None} for content in files], kind)


def check_frames(episode: str, features: Mapping[str, Feature], frames: Frames) -> int:
    """The number of frames.

    Raises:
        UserError: something is missing, misshapen, not finite or out of range.
    """
    if set(frames) != set(features):
        missing, unknown = sorted(set(features) - set(frames)), sorted(set(frames) - set(features))
        problem = f"{missing[0]!r} is missing" if missing else f"{unknown[0]!r} is not a feature of this dataset"
        raise UserError(f"{episode}: {problem}; give exactly: {', '.join(features)}.")
    lengths = {name: len(values) for name, values in frames.items()}
    length = next(iter(lengths.values()))
    if length == 0 or len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {number}" for name, number in lengths.items())
        raise UserError(f"{episode}: every feature needs the same number of frames, at least one; there are: {told}.")
    for name, feature in features.items():
        _check_feature(episode, name, feature, frames[name])
    return length


def _check_feature(episode: str, name: str, feature: Feature, values: NDArray[Any]) -> None:
    shape = feature.shape
    allowed = [shape, shape[:2]] if feature.kind in ("depth", "labels") else [shape]
    if values.shape[1:] not in allowed:
        raise UserError(f"{episode}: {name} has shape {values.shape[1:]} per frame, but {shape} is expected.")
    if feature.kind == "rgb" and values.dtype != np.uint8:
        raise UserError(f"{episode}: {name} is {values.dtype}, but uint8 in 0…255 is expected.")
    if feature.kind == "depth" and not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"{episode}: {name} is {values.dtype}, but floating-point metres are expected.")
    if feature.kind == "labels" and not (
        np.issubdtype(values.dtype, np.integer) and values.min() >= 0 and values.max() <= 65535
    ):
        raise UserError(f"{episode}: {name} should hold integers in 0…65535, one label per pixel.")
    if feature.kind == "vector" and np.issubdtype(values.dtype, np.floating):
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            frame = int(np.argmin(finite))
            raise UserError(
                f"{episode}, frame {frame}: {name} is not finite (NaN or infinite); correct it or drop the episode."
            )
