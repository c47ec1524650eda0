"""The region of the picture that matters: an object of the simulator's segmentation, or a given box."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fathom.analysis.sight import CAMERA
from fathom.data.dataset import LeRobotDataset, open_dataset
from fathom.data.features import IMAGES, DatasetInfo
from fathom.errors import UserError
from fathom.vlm.questions.names import is_object, may_mean, named_by_task, readable
from fathom.vlm.questions.scene import LEAST_PIXELS, LEAST_SHARE

LABELS = f"{IMAGES}{CAMERA}_segmentation"
LARGEST = 0.25
"""A larger share of the picture is no region: as much elsewhere would not be elsewhere."""
LEAST_COVERED = 0.5
"""A token belongs to the region if the region covers this share of its patch."""

Pixels = Bool[np.ndarray, "height width"]


@dataclass(frozen=True)
class Region:
    """The region in one frame.

    Attributes:
        frame: its place in the opened dataset.
        pixels: of the camera's picture.
        name: what is there.
    """

    frame: int
    pixels: Pixels
    name: str


class RegionSource(Protocol):
    """Says where the region is in each frame."""

    def open(self, root: Path, split: str | None) -> LeRobotDataset:
        """The dataset with what the source needs to see; a UserError if it is not there."""
        ...

    def find(self, dataset: LeRobotDataset, frame: int) -> tuple[Pixels, str] | None:
        """The region and its name; ``None`` where there is none."""
        ...

    def missing(self, dataset: LeRobotDataset) -> str:
        """Why there is none in any frame."""
        ...


@dataclass(frozen=True)
class Named:
    """An object of the segmentation.

    Attributes:
        name: its label, or what people call it (``faucetBase`` is a faucet); ``None``: whatever the instruction names.
    """

    name: str | None = None

    def open(self, root: Path, split: str | None) -> LeRobotDataset:
        """See :class:`RegionSource`."""
        feature = DatasetInfo.load(root).features.get(LABELS)
        if feature is None or not feature.label_names:
            raise UserError(
                f"{root}: there is no {LABELS} with the names of its labels, so where the object is is not known; "
                "collect the dataset with --segmentation, or give the region by --box"
            )
        return open_dataset(root, cameras=[CAMERA], labels=[f"{CAMERA}_segmentation"], split=split)

    def find(self, dataset: LeRobotDataset, frame: int) -> tuple[Pixels, str] | None:
        """See :class:`RegionSource`."""
        labels = dataset.picture(LABELS, frame)[0]
        shown = self._meant(dataset, labels, dataset.tasks[int(dataset.columns["task_index"][frame])])
        pixels = np.isin(labels, list(shown))
        least = max(LEAST_PIXELS, LEAST_SHARE * pixels.size)
        if not least <= np.count_nonzero(pixels) <= LARGEST * pixels.size:
            return None
        return pixels, " and ".join(dict.fromkeys(shown.values()))

    def missing(self, dataset: LeRobotDataset) -> str:
        """See :class:`RegionSource`."""
        names = dataset.info.features[LABELS].label_names.values()
        objects = ", ".join(sorted({readable(name) for name in names if is_object(name)})) or "none"
        wanted = f"the object {self.name!r}" if self.name else "an object that its instruction names"
        return (
            f"{dataset.root}: no frame shows {wanted} between {LEAST_PIXELS} pixels and a quarter of the picture in "
            f"size; the dataset's objects are: {objects}; choose one with --object, or give the region by --box"
        )

    def _meant(
        self, dataset: LeRobotDataset, labels: Int[np.ndarray, "height width"], instruction: str
    ) -> dict[int, str]:
        """The labels in the picture that are meant, and what people call them."""
        names = dataset.info.features[LABELS].label_names
        shown = {int(label): names.get(int(label), "") for label in np.unique(labels)}
        called = {k: readable(named_by_task(label, instruction)) for k, label in shown.items()}
        if self.name is not None:
            return {k: called[k] for k, label in shown.items() if self.name in (label, called[k])}
        words = " ".join(re.findall(r"[a-z]+", instruction.lower()))
        return {k: called[k] for k, label in shown.items() if is_object(label) and may_mean(called[k], words)}


@dataclass(frozen=True)
class Box:
    """The same box in every frame: pixels from (left, top) up to, and without, (right, bottom)."""

    left: int
    top: int
    right: int
    bottom: int

    def open(self, root: Path, split: str | None) -> LeRobotDataset:
        """See :class:`RegionSource`."""
        dataset = open_dataset(root, cameras=[CAMERA], split=split)
        height, width, _ = dataset.info.features[f"{IMAGES}{CAMERA}"].picture_shape
        if not (0 <= self.left < self.right <= width and 0 <= self.top < self.bottom <= height):
            raise UserError(
                f"--box {self}: expected left, top, right, bottom within the picture of {width} x {height} pixels"
            )
        if (self.right - self.left) * (self.bottom - self.top) > LARGEST * width * height:
            raise UserError(
                f"--box {self}: covers more than a quarter of the picture of {width} x {height} pixels, and nothing as "
                "large is left to compare it with; choose a smaller box"
            )
        return dataset

    def find(self, dataset: LeRobotDataset, frame: int) -> tuple[Pixels, str] | None:
        """See :class:`RegionSource`."""
        height, width, _ = dataset.info.features[f"{IMAGES}{CAMERA}"].picture_shape
        pixels = np.zeros((height, width), bool)
        pixels[self.top : self.bottom, self.left : self.right] = True
        return pixels, f"box {self}"

    def missing(self, dataset: LeRobotDataset) -> str:
        """See :class:`RegionSource`."""
        return f"{dataset.root}: has no frame"

    def __str__(self) -> str:
        return f"{self.left} {self.top} {self.right} {self.bottom}"


def draw_regions(dataset: LeRobotDataset, source: RegionSource, count: int, seed: int) -> list[Region]:
    """The regions of up to ``count`` frames that have one, drawn at random; in the order of the dataset.

    Raises:
        UserError: no frame has one.
    """
    found: list[Region] = []
    for frame in np.random.default_rng(seed).permutation(len(dataset)).tolist():
        region = source.find(dataset, frame)
        if region is not None:
            found.append(Region(frame, *region))
        if len(found) == count:
            break
    if not found:
        raise UserError(source.missing(dataset))
    return sorted(found, key=lambda region: region.frame)


def region_tokens(regions: list[Region], side: int) -> Bool[Tensor, "frames side*side"]:
    """Which tokens of a grid stand for each region: those half of whose patch it covers; if none, the most covered."""
    pixels = torch.from_numpy(np.stack([region.pixels for region in regions])).float()
    covered: Float[Tensor, "frames tokens"] = F.adaptive_avg_pool2d(pixels[:, None], side).flatten(1)
    tokens = covered >= LEAST_COVERED
    most = torch.zeros_like(tokens).scatter(1, covered.argmax(1, keepdim=True), True)
    return torch.where(tokens.any(1, keepdim=True), tokens, most)
