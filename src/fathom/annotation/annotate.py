"""Adding depth to a LeRobot dataset, episode by episode; the pictures are not touched."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from fathom.annotation.engines import run_here, run_on_ray
from fathom.data.dataset import open_dataset
from fathom.data.extend import FeatureAdder
from fathom.data.features import IMAGES, DatasetInfo, Feature
from fathom.depth.estimators import Estimator, open_estimator
from fathom.errors import UserError
from fathom.progress import progress_bar

RECORD = "depth.json"
"""In a dataset's ``meta/``: for each annotated feature how its depth was made, and what was noted of each episode."""


@dataclass(frozen=True)
class Annotation:
    """What is to be added to a dataset, and from what.

    Attributes:
        estimator: its name, see :func:`fathom.depth.estimators.open_estimator`.
        weights: a file, folder or hub id; for recorded depth, where it lies.
        size: the side to which the estimator resizes pictures; ``None`` for its own.
        camera: whose pictures are annotated.
        name: of the new feature, as ``observation.images.<name>``; by default ``<camera>_depth``.
    """

    estimator: str
    weights: str | None = None
    size: int | None = None
    camera: str = "main"
    name: str | None = None

    @property
    def feature(self) -> str:
        """The new feature's full name."""
        return f"{IMAGES}{self.name or f'{self.camera}_depth'}"

    def open(self, device: str) -> Estimator:
        """The estimator, ready to run."""
        return open_estimator(self.estimator, self.weights, size=self.size, device=device)


@dataclass(frozen=True)
class Done:
    """What an annotation came to.

    Attributes:
        episodes: how many there are.
        skipped: why episodes have no depth, by their numbers; there every pixel is unknown.
    """

    episodes: int
    skipped: Mapping[int, str] = field(default_factory=dict)


def annotate(
    dataset: str | Path,
    annotation: Annotation,
    *,
    processes: int = 1,
    engine: Literal["local", "ray"] = "local",
    devices: Sequence[str] = ("cpu",),
    console: Console | None = None,
) -> Done:
    """Add depth to a dataset; run it again after an interruption and it goes on, after the end and it does nothing.

    An episode whose pictures cannot be read, or whose depth is good for nothing, gets no depth (every pixel unknown)
    and is listed. The result does not depend on processes and engine: each episode is computed by one worker, on one
    thread of a CPU or on one GPU.

    Args:
        processes: workers that run side by side.
        engine: ``local`` processes, or the workers of a ``ray`` cluster that sees the same folders.
        devices: given out to the workers in turn: ``cuda:0``, ``cuda:1`` …

    Raises:
        UserError: there is no dataset or camera, the estimator cannot be opened, or the feature is there already and
            was made from something else.
    """
    root = Path(dataset)
    info = DatasetInfo.load(root)
    if processes < 1:
        raise UserError(f"processes is {processes}: at least 1 is needed")
    if annotation.feature in info.features:
        return _found(root, annotation)
    camera = f"{IMAGES}{annotation.camera}"
    if camera not in info.features:
        cameras = ", ".join(name.removeprefix(IMAGES) for name in info.keys("rgb")) or "none"
        raise UserError(f"{root}: the dataset has no camera {annotation.camera!r}; there is: {cameras}.")
    estimator = annotation.open(devices[0])
    height, width, _ = info.features[camera].picture_shape
    adder = FeatureAdder(root, annotation.feature, Feature.depth(height, width, estimator.kind), asdict(annotation))
    for episode in _skipped(adder.notes):  # what was in their way may be mended by now
        adder.discard(episode)
    run = {"local": run_here, "ray": run_on_ray}[engine]
    with progress_bar(console) as bar:
        task = bar.add_task("annotating", total=len(adder.episodes), note="episodes")
        bar.update(task, completed=len(adder.episodes) - len(adder.missing))
        for _ in run(annotate_episode, (str(root), annotation), adder.missing, processes, devices):
            bar.advance(task)
    notes = adder.notes
    record = {"made_from": asdict(annotation), "kind": estimator.kind, "episodes": notes}
    adder.finish({RECORD: {**_record(root), annotation.feature: record}})
    return Done(len(adder.episodes), _skipped(notes))


def annotate_episode(dataset: str, annotation: Annotation, device: str, episode: int) -> None:
    """Stage the depth of one episode: what a worker does."""
    torch.set_num_threads(1)  # sums of floats depend on how many threads share them
    root = Path(dataset)
    estimator = _estimator(annotation, device)
    height, width, _ = DatasetInfo.load(root).features[f"{IMAGES}{annotation.camera}"].picture_shape
    adder = FeatureAdder(root, annotation.feature, Feature.depth(height, width, estimator.kind), asdict(annotation))
    try:
        depth = estimator.estimate(_pictures(root, annotation.camera, episode), episode=episode).stored()
        # What lies beyond the dataset's range would come back as its end, a wall that is not there.
        values = np.where(depth.values <= adder.feature.depth_codec.maximum, depth.values, 0)
        note = dict(depth.provenance)
    except UserError as error:
        length = next(known.length for known in adder.episodes if known.index == episode)
        note, values = {"skipped": str(error)}, np.zeros((length, height, width), np.float32)
    adder.stage(episode, values, note)


def available_devices() -> list[str]:
    """All GPUs that torch sees, else the CPU."""
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


@lru_cache(maxsize=1)
def _estimator(annotation: Annotation, device: str) -> Estimator:
    """One for all episodes of a worker."""
    return annotation.open(device)


def _pictures(root: Path, camera: str, episode: int) -> NDArray[np.uint8]:
    """All pictures (T, H, W, 3) of an episode.

    Raises:
        UserError: one is damaged or missing, or time does not go forward.
    """
    dataset = open_dataset(root, cameras=[camera], episodes=[episode])
    times = np.asarray(dataset.columns["timestamp"]).reshape(-1)
    if (still := np.flatnonzero(np.diff(times) <= 0)).size:
        raise UserError(f"episode {episode}: the timestamp of frame {still[0] + 1} is not after that of the one before")
    (name,) = dataset.cameras
    return np.stack([dataset.picture(name, frame).transpose(1, 2, 0) for frame in range(len(dataset))])


def _record(root: Path) -> dict[str, Any]:
    path = root / "meta" / RECORD
    return json.loads(path.read_text()) if path.is_file() else {}


def _found(root: Path, annotation: Annotation) -> Done:
    """What a feature that is there already came to, if it is this annotation's."""
    record = _record(root).get(annotation.feature)
    if record is None or record["made_from"] != asdict(annotation):
        raise UserError(
            f"{root}: the dataset has {annotation.feature} already, made from something else; choose another --name."
        )
    notes = {int(number): note for number, note in record["episodes"].items()}
    return Done(len(notes), _skipped(notes))


def _skipped(notes: Mapping[int, Mapping[str, Any]]) -> dict[int, str]:
    return {number: note["skipped"] for number, note in notes.items() if "skipped" in note}
