"""``fathom degrade``."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Degrade:
    """Add a noisy copy of a dataset's true depth, to measure what noise in the labels costs."""

    dataset: tyro.conf.Positional[Path]
    """A LeRobot dataset with depth in metres; do this before anything is trained on it."""

    source: str = "main_depth"
    """The true depth."""

    name: str = "noisy_depth"
    """Name of the new feature; train on it with `--depth-feature noisy_depth`."""

    pixel: float = 0.02
    """Noise on every pixel: its standard deviation, as a share of the depth."""

    drift: float = 0.01
    """Wandering of the scale: the standard deviation of its logarithm's step from frame to frame."""

    holes: float = 0.1
    """The share of each frame that is not measured."""

    seed: int = 0
    """Of the noise."""

    def run(self) -> None:
        from fathom.annotation.degrade import degrade
        from fathom.depth.degradation import DepthNoise
        from fathom.errors import UserError

        try:
            noise = DepthNoise(self.pixel, self.drift, self.holes)
        except ValueError as error:
            raise UserError(str(error)) from None
        episodes = degrade(self.dataset, noise, source=self.source, name=self.name, seed=self.seed)
        print(f"{episodes} episodes have {self.name}")
