"""``fathom convert``: datasets of other formats become LeRobot v3.0."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from fathom.errors import UserError

if TYPE_CHECKING:
    from fathom.data.convert.conversion import Converted


@dataclass(frozen=True)
class ConvertHdf5:
    """Convert LIBERO or robomimic demonstrations (HDF5)."""

    source: tyro.conf.Positional[Path]
    """A file, or a folder of them."""

    out: Path
    """The dataset's folder; it must not exist. An interrupted conversion continues."""

    task: str | None = None
    """The instruction of all demonstrations; by default the one that each file names."""

    processes: int = 1
    """Episodes that are encoded side by side."""

    def run(self) -> int:
        from fathom.data.convert.conversion import convert
        from fathom.data.convert.hdf5 import Hdf5Source

        return tell(convert(Hdf5Source.open(self.source, task=self.task), self.out, processes=self.processes), self.out)


@dataclass(frozen=True)
class ConvertRlds:
    """Convert an RLDS dataset (TFRecord), as Bridge and Fractal are published; tensorflow is not needed."""

    source: tyro.conf.Positional[Path]
    """The folder with dataset_info.json and the shards."""

    out: Path
    """The dataset's folder; it must not exist. An interrupted conversion continues."""

    map: str | None = None
    """Which columns are what: bridge or fractal; by default the one that knows the dataset's name."""

    cameras: tuple[str, ...] = ()
    """Pictures by the camera that they become, such as main=image_0 wrist=image_3; by default the main one alone."""

    split: str = "train"
    """Whose shards are read."""

    processes: int = 1
    """Episodes that are encoded side by side."""

    def run(self) -> int:
        from fathom.data.convert.conversion import convert
        from fathom.data.convert.rlds import RldsSource

        pairs = [camera.split("=", 1) for camera in self.cameras]
        if wrong := [pair for pair in pairs if len(pair) != 2 or not all(pair)]:
            raise UserError(f"--cameras {wrong[0][0]}: give CAMERA=NAME, such as main=image_0.")
        cameras = dict(pairs)
        source = RldsSource.open(self.source, map=self.map, cameras=cameras, split=self.split)
        return tell(convert(source, self.out, processes=self.processes), self.out)


@dataclass(frozen=True)
class ConvertLeRobot:
    """Convert a LeRobot dataset of version 2.1 or 2.0; its videos are copied, not encoded again."""

    source: tyro.conf.Positional[Path]
    """The dataset's folder."""

    out: Path
    """The new dataset's folder; it must not exist. An interrupted conversion continues."""

    processes: int = 1
    """Episodes that are checked side by side."""

    def run(self) -> int:
        from fathom.data.convert.lerobot_v21 import convert_lerobot_v21

        return tell(convert_lerobot_v21(self.source, self.out, processes=self.processes), self.out)


def tell(done: "Converted", out: Path) -> int:
    """Say what came of it; 1 if episodes were skipped."""
    print(f"{done.episodes} episodes written to {out}")
    if not done.skipped:
        return 0
    print(f"{len(done.skipped)} skipped:")
    for name, reason in done.skipped.items():
        print(f"  {name}: {reason}")
    return 1
