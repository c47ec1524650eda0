"""RLDS datasets as TFDS stores them: shards of TFRecords, one Example per episode, its steps flattened."""

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fathom.data.convert.conversion import Place, Recording
from fathom.data.convert.example import Value, parse_example
from fathom.data.convert.rlds_maps import OBSERVATION, RLDS_MAPS, Column, RldsMap, absolute_gripper
from fathom.data.convert.tfrecord import read_record, record_offsets
from fathom.data.features import ACTION, IMAGES, STATE, Feature
from fathom.errors import UserError

_SHARD = re.compile(r"-(?P<split>[^-.]+)\.tfrecord-(?P<number>\d{5})-of-(?P<count>\d{5})$")
_RECORDS_PER_SHARD = 100_000


@dataclass(frozen=True)
class RldsSource:
    """A prepared TFDS dataset that one of :data:`~fathom.data.convert.rlds_maps.RLDS_MAPS` knows.

    Attributes:
        root: the folder with ``dataset_info.json`` and the shards.
        map: which of its columns are what.
        cameras: names of pictures, by the camera that they become.
        split: whose shards are read.
    """

    root: Path
    map: RldsMap
    cameras: Mapping[str, str]
    split: str

    @classmethod
    def open(
        cls, root: str | Path, *, map: str | None = None, cameras: Mapping[str, str] | None = None, split: str = "train"
    ) -> "RldsSource":
        """Opens the dataset in folder ``root``, or the only version of it there.

        Args:
            map: its name in ``RLDS_MAPS``; by default the one that knows the dataset's name.
            cameras: pictures by the camera that they become (``{"main": "image_0"}``); by default the map's.

        Raises:
            UserError: there is no such dataset, no map for it, no such split, or no camera ``main``.
        """
        folder = _folder(Path(root))
        chosen = _map(folder, map)
        cameras = cameras or chosen.cameras
        if "main" not in cameras:
            raise UserError(f"cameras {', '.join(cameras)}: one must be main, such as main={chosen.cameras['main']}.")
        source = cls(folder, chosen, dict(cameras), split)
        if not source._shards():
            there = ", ".join(sorted({match["split"] for _, match in _all_shards(folder)})) or "none"
            raise UserError(f"{folder}: there are no shards of the split {split!r}; there is: {there}.")
        return source

    @property
    def fps(self) -> int:
        """Steps per second of the robot; records do not tell."""
        return self.map.fps

    @property
    def robot_type(self) -> str:
        """The robot's name."""
        return self.map.robot_type

    @property
    def conventions(self) -> Mapping[str, str]:
        """What is stored."""
        pictures = ", ".join(f"{camera} is {name}" for camera, name in self.cameras.items())
        return {"pictures": f"upright, as published: {pictures}", **self.map.conventions}

    def places(self) -> list[Place]:
        """All records of all shards of the split; a shard that is missing or damaged is a place with a problem."""
        places = []
        for number, path in self._shards().items():
            first, count = number * _RECORDS_PER_SHARD, 0
            try:
                for offset in record_offsets(path):
                    places.append(Place(first + count, f"{path.name}, record {count}", path, offset))
                    count += 1
            except (UserError, OSError) as error:
                problem = str(error) if isinstance(error, UserError) else "this shard is missing; copy it"
                places.append(Place(first + count, f"{path.name}, from record {count}", path, None, problem))
        return places

    def read(self, place: Place) -> Recording:
        """The episode of one record.

        Raises:
            UserError: it is damaged, lacks a column or a camera, or has no instruction.
        """
        try:
            example = parse_example(read_record(place.file, place.at))
        except ValueError as error:
            raise UserError(f"the record is no tf.train.Example ({error})") from error
        task = self._instruction(example)
        action = _columns(example, self.map.action)
        if self.map.relative_gripper:
            action[:, -1] = absolute_gripper(action[:, -1])
        frames: dict[str, NDArray[Any]] = {
            f"{IMAGES}{camera}": _pictures(example, name) for camera, name in self.cameras.items()
        }
        frames |= {STATE: _columns(example, self.map.state), ACTION: action}
        if self.map.still_start and len(action) and not action[0, :-1].any():
            frames = {name: values[1:] for name, values in frames.items()}
        return Recording(frames, task)

    def features(self, recording: Recording) -> dict[str, Feature]:
        """Pictures of the size that the episode has, and named numbers."""
        features = {
            name: Feature.rgb(*values.shape[1:3])
            for name, values in recording.frames.items()
            if name.startswith(IMAGES)
        }
        return features | {
            STATE: Feature.vector(self.map.names["state"]),
            ACTION: Feature.vector(self.map.names["action"]),
        }

    def _instruction(self, example: Mapping[str, Value]) -> str:
        values = example.get(self.map.instruction)
        if not isinstance(values, list) or not values or not values[0].strip():
            raise UserError("it has no instruction")
        return values[0].decode(errors="replace").strip()

    def _shards(self) -> dict[int, Path]:
        """The shards of the split by their numbers, also those that should be there and are not."""
        shards = {int(match["number"]): (path, match) for path, match in _all_shards(self.root, self.split)}
        if not shards:
            return {}
        path, match = next(iter(shards.values()))
        stem = path.name[: match.start("number")]
        count = int(match["count"])
        return {number: self.root / f"{stem}{number:05d}-of-{count:05d}" for number in range(count)}


def _all_shards(root: Path, split: str | None = None) -> list[tuple[Path, re.Match[str]]]:
    found = [(path, _SHARD.search(path.name)) for path in sorted(root.iterdir())]
    return [(path, match) for path, match in found if match and split in (None, match["split"])]


def _folder(root: Path) -> Path:
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; give the one that holds dataset_info.json.")
    found = (
        [root] if (root / "dataset_info.json").is_file() else sorted(p.parent for p in root.glob("*/dataset_info.json"))
    )
    if len(found) != 1:
        versions = (
            f"there are several versions ({', '.join(p.name for p in found)}): name one"
            if found
            else ("dataset_info.json is missing, so it is no prepared TFDS dataset")
        )
        raise UserError(f"{root}: {versions}.")
    return found[0]


def _map(folder: Path, name: str | None) -> RldsMap:
    if name is not None:
        if name not in RLDS_MAPS:
            raise UserError(f"there is no RLDS map {name!r}; there is: {', '.join(RLDS_MAPS)}.")
        return RLDS_MAPS[name]
    path = folder / "dataset_info.json"
    try:
        dataset = json.loads(path.read_text())["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: the dataset's name is not readable ({error!r}); copy the file again.") from error
    for known in RLDS_MAPS.values():
        if dataset in known.datasets:
            return known
    raise UserError(
        f"{folder}: no map knows the dataset {dataset!r}; if its columns are those of another, give --map "
        f"({', '.join(RLDS_MAPS)}), else add one to fathom/data/convert/rlds_maps.py."
    )


def _columns(example: Mapping[str, Value], columns: Sequence[Column]) -> NDArray[np.float32]:
    """The columns side by side, (steps, numbers).

    Raises:
        UserError: one is missing, or does not have its numbers for every step.
    """
    parts = []
    for name, width in columns:
        values = example.get(name)
        if values is None or isinstance(values, list):
            raise UserError(f"it has no numbers {name}")
        if len(values) % width:
            raise UserError(f"{name} has {len(values)} numbers, which are no whole steps of {width}")
        parts.append(values.astype(np.float32).reshape(-1, width))
    lengths = {name: len(part) for (name, _), part in zip(columns, parts, strict=True)}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"its columns have different numbers of steps: {told}")
    return np.concatenate(parts, axis=1)


def _pictures(example: Mapping[str, Value], name: str) -> NDArray[np.uint8]:
    """The decoded pictures (steps, height, width, 3) of a camera.

    Raises:
        UserError: they are missing, placeholders or damaged.
    """
    present = example.get(f"episode_metadata/has_{name}")
    files = example.get(f"{OBSERVATION}{name}")
    if not isinstance(files, list) or not files or (isinstance(present, np.ndarray) and not present.any()):
        raise UserError(f"the camera {name} is missing")
    pictures = []
    for step, content in enumerate(files):
        try:
            with Image.open(io.BytesIO(content)) as image:
                pictures.append(np.array(image.convert("RGB")))
        except (OSError, SyntaxError) as error:
            raise UserError(f"{name} of step {step} cannot be decoded ({error})") from error
    if len({picture.shape for picture in pictures}) > 1:
        raise UserError(f"the pictures of {name} differ in size")
    return np.stack(pictures)
