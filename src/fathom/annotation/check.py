"""How good an estimated depth is: beside a sensor's or a simulator's, in the same dataset."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fathom.data.dataset import LeRobotDataset, open_dataset
from fathom.data.features import IMAGES
from fathom.depth.depth_map import DepthKind
from fathom.errors import UserError

Pictures = NDArray[np.float64]
STILL = 0.005
"""A pixel whose true depth changes by less than this share of itself between two frames stands still."""


@dataclass(frozen=True)
class EpisodeCheck:
    """One episode's errors, after one scale and shift for all of it (least squares in disparity).

    Attributes:
        abs_rel: mean of |estimate - truth| / truth, over a frame's pixels, then over frames.
        delta_1: share of pixels with max(estimate / truth, truth / estimate) < 1.25, likewise.
        flicker: mean relative change of the estimate between frames where the truth stands still; ``None`` if nowhere.
        scale, shift: of the estimate's disparity, in 1/m.
    """

    episode: int
    abs_rel: float
    delta_1: float
    flicker: float | None
    scale: float
    shift: float


@dataclass(frozen=True)
class Frame:
    """One frame, with its error; depth in metres, 0 where it is not known.

    Attributes:
        index: in the dataset.
        abs_rel: of this frame.
        picture: uint8 (H, W, 3), or ``None`` if the dataset has no such camera.
        truth, estimate: (H, W).
    """

    index: int
    abs_rel: float
    picture: NDArray[np.uint8] | None
    truth: Pictures
    estimate: Pictures


@dataclass(frozen=True)
class Check:
    """The errors of every episode, the worst frames, and what could not be compared."""

    episodes: list[EpisodeCheck]
    worst: list[Frame]
    skipped: dict[int, str]

    def mean(self, name: str) -> float | None:
        """The mean of one measure over episodes."""
        values = [value for check in self.episodes if (value := getattr(check, name)) is not None]
        return float(np.mean(values)) if values else None


def check_depth(dataset: str | Path, estimated: str, reference: str, *, camera: str = "main", worst: int = 8) -> Check:
    """Compare two depth features of a dataset, episode by episode.

    Args:
        estimated, reference: the features, as ``main_depth``; the reference is in metres.
        camera: whose pictures stand beside the worst frames.
        worst: frames to keep, those with the largest errors.

    Raises:
        UserError: a feature is missing, both are one, or the reference is not metric.
    """
    root = Path(dataset)
    if estimated == reference:
        raise UserError(f"{estimated} would be compared with itself: name the estimate with --name")
    whole = open_dataset(root, cameras=[], depth=[estimated, reference])
    kind = whole.info.features[f"{IMAGES}{estimated}"].depth_kind
    if whole.info.features[f"{IMAGES}{reference}"].depth_kind != "metric":
        raise UserError(f"{root}: {reference} is relative depth; the reference of a check is in metres")
    cameras = [camera] if f"{IMAGES}{camera}" in whole.info.keys("rgb") else []
    checks, frames, skipped = [], list[Frame](), dict[int, str]()
    for episode in whole.episodes:
        one = open_dataset(root, cameras=cameras, depth=[estimated, reference], episodes=[episode.index])
        try:
            check, own = _check(one, episode.index, estimated, reference, kind)
        except UserError as error:
            skipped[episode.index] = str(error)
            continue
        checks.append(check)
        frames = heapq.nlargest(worst, [*frames, *own], key=lambda frame: frame.abs_rel)
    return Check(checks, [_with_picture(root, cameras, frame) for frame in frames], skipped)


def align(disparity: Pictures, truth: Pictures, counts: NDArray[np.bool_]) -> tuple[float, float]:
    """The scale and shift that bring a disparity nearest to 1 / truth, by least squares over the pixels that count.

    Raises:
        UserError: no pixel counts, or all of them have one disparity.
    """
    x, y = disparity[counts].astype(np.float64), 1 / truth[counts].astype(np.float64)
    if x.size < 2 or np.ptp(x) == 0:
        raise UserError("no two pixels with different depth are known in both")
    scale, shift = np.polyfit(x, y, 1)
    return float(scale), float(shift)


def _check(
    dataset: LeRobotDataset, episode: int, estimated: str, reference: str, kind: DepthKind
) -> tuple[EpisodeCheck, Iterator[Frame]]:
    truth, estimate = (
        np.stack([dataset.picture(f"{IMAGES}{name}", i)[0] for i in range(len(dataset))]).astype(np.float64)
        for name in (reference, estimated)
    )
    if truth.shape != estimate.shape:
        raise UserError(f"{estimated} is {estimate.shape[1:]} and {reference} {truth.shape[1:]}: not of one size")
    counts = (truth > 1e-3) & (estimate > 0)
    disparity = estimate if kind == "relative_inverse" else 1 / np.where(counts, estimate, 1)
    scale, shift = align(disparity, truth, counts)
    depth = np.where(counts, 1 / np.maximum(scale * disparity + shift, 1e-3), 0)
    safe = np.where(counts, truth, 1)
    error = np.where(counts, np.abs(depth - truth) / safe, 0)
    ratio = np.where(counts, np.maximum(depth / safe, safe / np.where(counts, depth, 1)), np.inf)
    known = counts.sum((1, 2))
    seen = known > 0
    abs_rel = error.sum((1, 2))[seen] / known[seen]
    delta_1 = (ratio < 1.25).sum((1, 2))[seen] / known[seen]
    check = EpisodeCheck(
        episode, float(abs_rel.mean()), float(delta_1.mean()), flicker(depth, truth, counts), scale, shift
    )
    begin = dataset.episodes[0].start
    numbers = np.flatnonzero(seen)
    return check, (
        Frame(begin + int(i), float(e), None, truth[i], depth[i]) for i, e in zip(numbers, abs_rel, strict=True)
    )


def flicker(depth: Pictures, truth: Pictures, counts: NDArray[np.bool_]) -> float | None:
    """Mean relative change of ``depth`` between successive frames where ``truth`` stands still; (frames, H, W) each."""
    both = counts[1:] & counts[:-1]
    before = np.where(both, truth[:-1], 1)
    still = both & (np.abs(truth[1:] - truth[:-1]) < STILL * before)
    if not still.any():
        return None
    return float((np.abs(depth[1:] - depth[:-1])[still] / depth[:-1][still]).mean())


def _with_picture(root: Path, cameras: list[str], frame: Frame) -> Frame:
    if not cameras:
        return frame
    dataset = open_dataset(root, cameras=cameras)
    picture: Any = dataset.picture(dataset.cameras[0], frame.index).transpose(1, 2, 0)
    return Frame(frame.index, frame.abs_rel, picture, frame.truth, frame.estimate)
