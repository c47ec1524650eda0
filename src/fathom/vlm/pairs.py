"""Pictures and their depth, pair by pair: what a depth encoder is aligned with.

A folder of pairs holds ``images/`` and ``depth/`` with files of the same names. Depth is a 16-bit PNG: millimetres, or
relative inverse depth from 1 (far) to 65535; 0 where it is not known. ``pairs.json`` says which, and how it was made. A
folder of `fathom vlm questions` is one, too. Frames are named by episode and number, such as ``000012-0340``.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fathom.config import read_json
from fathom.data.features import MILLIMETRES_PER_METRE
from fathom.depth.depth_map import DepthKind, DepthVideo
from fathom.depth.estimators import Estimator, open_estimator
from fathom.errors import UserError
from fathom.files import atomically, write_json
from fathom.progress import progress_bar
from fathom.vlm.depth_input import depth_of
from fathom.vlm.picture_sources import Picture, open_pictures

_RECORD = "pairs.json"
_MOST = 65535
_FRAME = re.compile(r"(\d{6})-\d{4,}")


@dataclass(frozen=True)
class Pair:
    """A picture and its depth, each a file."""

    name: str
    image: Path
    depth: Path

    @property
    def scene(self) -> str:
        """Pairs of one scene, the frames of an episode, look alike; any other picture is a scene of its own."""
        frame = _FRAME.fullmatch(self.name)
        return frame[1] if frame else self.name


@dataclass(frozen=True)
class PairMaking:
    """What depth is made with, and which pictures of a dataset get it.

    Attributes:
        estimator, weights, size: see :func:`fathom.depth.estimators.open_estimator`; ``recorded`` takes the depth
            that a LeRobot dataset has.
        camera: of a LeRobot dataset.
        every: one of so many frames of a LeRobot dataset.
        column: of a dataset of the datasets library; by default its only one of pictures.
        split: of such a dataset.
    """

    estimator: str
    weights: str | None = None
    size: int | None = None
    camera: str = "main"
    every: int = 10
    column: str | None = None
    split: str = "train"

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UserError(f"every is {self.every}: one of so many frames is taken, at least 1")


@dataclass(frozen=True)
class Made:
    """What the making of pairs came to.

    Attributes:
        pairs: how many there are.
        skipped: why pictures have no depth, by their names.
    """

    pairs: int
    skipped: Mapping[str, str] = field(default_factory=dict)


def make_pairs(source: str | Path, making: PairMaking, out: str | Path, *, device: str = "cpu") -> Made:
    """Give pictures depth; run it again after an interruption and it goes on.

    Pictures that cannot be read, or whose depth is good for nothing, are left out and named; the rest is done.

    Args:
        source: a folder of pictures, a LeRobot dataset, or a data set of the datasets library (folder or hub id).
        out: becomes the folder of pairs.

    Raises:
        UserError: there are no pictures, no such estimator, or ``out`` lies in the source or holds pairs that were made
            from something else.
    """
    out = Path(out)
    if Path(source).is_dir() and out.resolve().is_relative_to(Path(source).resolve()):
        raise UserError(
            f"{out}: lies in {source}, where its pictures would be taken for more of the source: choose another folder."
        )
    pictures = open_pictures(source, camera=making.camera, every=making.every, column=making.column, split=making.split)
    recorded = making.estimator == "recorded"
    if recorded and any(picture.depth is None for picture in pictures):
        raise UserError(f"{source}: has no recorded depth; choose another estimator, or a LeRobot dataset with depth.")
    estimator = None if recorded else open_estimator(making.estimator, making.weights, size=making.size, device=device)
    kind: DepthKind = "metric" if estimator is None else estimator.kind
    record = {"kind": kind, "source": str(source), **asdict(making)}
    _claim(out, record)
    skipped: dict[str, str] = {}
    with progress_bar() as bar:
        task = bar.add_task("estimating depth", total=len(pictures), note="pictures")
        for picture in pictures:
            if not (out / "depth" / f"{picture.name}.png").exists():
                try:
                    _make(picture, estimator, out)
                except UserError as error:
                    skipped[picture.name] = str(error)
            bar.advance(task)
    write_json(out / _RECORD, record | {"pairs": len(pictures) - len(skipped), "skipped": skipped})
    return Made(len(pictures) - len(skipped), skipped)


def read_pairs(folder: str | Path) -> tuple[list[Pair], DepthKind]:
    """The pairs of a folder by name, and the kind of their depth; a picture without depth is no pair.

    Raises:
        UserError: there are none, a depth map has no picture, or several.
    """
    folder = Path(folder)
    depths = {_stem(path, folder / "depth"): path for path in sorted((folder / "depth").rglob("*.png"))}
    images: dict[str, Path] = {}
    for path in sorted(path for path in (folder / "images").rglob("*") if path.is_file()):
        name = _stem(path, folder / "images")
        if name in images:
            raise UserError(f"{images[name]} and {path.name} have one name and one depth map: remove one of them")
        images[name] = path
    if not depths:
        raise UserError(
            f"{folder} has no pairs: expected images/NAME.png and depth/NAME.png, as `fathom vlm pairs` does"
        )
    if alone := sorted(depths.keys() - images.keys()):
        raise UserError(f"{folder / 'depth' / alone[0]}.png has no picture of that name in {folder / 'images'}")
    record = read_json(folder / _RECORD, "record of pairs") if (folder / _RECORD).is_file() else {}
    kind: DepthKind = record.get("kind", "metric")
    return [Pair(name, images[name], path) for name, path in depths.items()], kind


def held_out(pairs: Sequence[Pair], share: float, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
    """Pairs to learn from, and at least two to be tested with, drawn by the seed; a scene is in one of both only.

    Raises:
        UserError: there are too few, or too few scenes.
    """
    if len(pairs) < 4:
        raise UserError(f"there are {len(pairs)} pairs: at least 4 are needed, 2 to learn from and 2 held out")
    scenes: dict[str, list[Pair]] = {}
    for pair in pairs:
        scenes.setdefault(pair.scene, []).append(pair)
    order = list(scenes)
    random.Random(seed).shuffle(order)
    count, test = max(2, round(share * len(pairs))), list[Pair]()
    while order and len(test) < count and len(pairs) - len(test) - len(scenes[order[0]]) >= 2:
        test += scenes[order.pop(0)]
    if len(test) < 2:
        raise UserError(
            f"the {len(pairs)} pairs show {len(scenes)} scenes: none can be held out that is not learnt from; take "
            "more episodes or pictures"
        )
    return [pair for scene in order for pair in scenes[scene]], test


def flip_and_turn(
    image: Image.Image, depth: np.ndarray, rng: np.random.Generator, degrees: float = 5.0
) -> tuple[Image.Image, np.ndarray]:
    """The same mirroring (every second time) and the same small rotation for a picture and its depth.

    Turning a camera about its optical axis, or looking into a mirror, leaves the depth of what is seen as it is. In the
    corners that come into view the picture is black and its depth not known.

    Args:
        depth: (height, width), 0 where it is not known.
        degrees: by which both are turned at most, to either side.
    """
    map_ = Image.fromarray(depth)
    if rng.random() < 0.5:
        image, map_ = (one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in (image, map_))
    angle = float(rng.uniform(-degrees, degrees))
    turned = image.rotate(angle, Image.Resampling.BILINEAR)
    return turned, np.asarray(map_.rotate(angle, Image.Resampling.NEAREST))


def _make(picture: Picture, estimator: Estimator | None, out: Path) -> None:
    image = picture.read()
    if estimator is not None:
        depth = depth_of(image, None, estimator.kind, estimator=estimator)
    else:
        assert picture.depth is not None
        depth = depth_of(image, picture.depth(), "metric", "m")
    place = out / "images" / f"{picture.name}{picture.suffix}"
    with atomically(place) as temporary:
        if picture.file is None:
            image.save(temporary, format="PNG")
        else:
            temporary.write_bytes(picture.file.read_bytes())
    with atomically(out / "depth" / f"{picture.name}.png") as temporary:
        Image.fromarray(_sixteen_bits(depth)).save(temporary, format="PNG")


def _sixteen_bits(depth: DepthVideo) -> np.ndarray:
    """What is too far for 16 bits is not known."""
    scaled = np.rint(depth.values[0] * (MILLIMETRES_PER_METRE if depth.kind == "metric" else _MOST))
    return np.where(scaled <= _MOST, scaled, 0).astype(np.uint16)


def _claim(out: Path, record: Mapping[str, Any]) -> None:
    path = out / _RECORD
    if path.is_file():
        theirs = read_json(path, "record of pairs")
        if different := [name for name, value in record.items() if theirs.get(name) != value]:
            name = different[0]
            raise UserError(
                f"{out} holds pairs with another {name} ({theirs.get(name)} there and {record[name]} here): choose "
                "another folder or delete it"
            )
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: something else is already here; choose another folder.")
    write_json(path, dict(record))


def _stem(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()
