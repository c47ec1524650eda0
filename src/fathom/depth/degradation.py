"""Depth as a worse source would have given it: what noise in the labels costs can be measured where depth is true."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Array = np.ndarray


@dataclass(frozen=True)
class DepthNoise:
    """How metric depth is made worse; each of the three is off at 0.

    Attributes:
        pixel: standard deviation of independent noise on every pixel, as a share of its depth.
        drift: of the scale of whole frames: its logarithm begins at 0 in each episode and takes a normal step of this
            standard deviation with every frame, as the scale of monocular estimates wanders over a video. After T
            frames it is off by a factor of about ``1 ± drift * sqrt(T)``.
        holes: the share of each frame that is not measured, in discs whose radius is up to an eighth of the picture's
            smaller side, as shiny and dark surfaces leave them.
    """

    pixel: float = 0.02
    drift: float = 0.01
    holes: float = 0.1

    def __post_init__(self) -> None:
        for name in ("pixel", "drift", "holes"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it is a share, at least 0 and below 1")

    def apply(
        self, metres: Float[Array, "frames height width"], random: np.random.Generator
    ) -> Float[Array, "frames height width"]:
        """One episode's depth made worse; 0 where it is not known, before or now."""
        scale = np.exp(np.cumsum(np.r_[0.0, random.normal(0, self.drift, len(metres) - 1)]))
        noise = 1 + random.normal(0, self.pixel, metres.shape)
        worse = np.where(np.isfinite(metres) & (metres > 0), metres * scale[:, None, None] * noise, 0).clip(min=0)
        for frame in worse:
            frame[self._unmeasured(frame.shape, random)] = 0
        return worse.astype(np.float32)

    def _unmeasured(self, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        """Discs at random places, until they cover the share."""
        height, width = shape
        y, x = np.mgrid[0:height, 0:width]
        found = np.zeros(shape, bool)
        while found.mean() < self.holes:
            radius = random.uniform(1, max(1.5, min(shape) / 8))
            found |= (y - random.uniform(0, height)) ** 2 + (x - random.uniform(0, width)) ** 2 < radius**2
        return found
