"""What every source of depth is: frames in, depth out."""

from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from fathom.depth.depth_map import DepthKind, DepthVideo


class Estimator(Protocol):
    """A source of depth for episodes of pictures."""

    @property
    def kind(self) -> DepthKind:
        """What its depth means; the same for all episodes."""

    def estimate(self, frames: UInt8[np.ndarray, "frames height width 3"], *, episode: int | None = None) -> DepthVideo:
        """The depth of one episode, as large as its frames.

        Args:
            frames: RGB.
            episode: its number in the dataset; only recorded depth needs it.

        Raises:
            UserError: there is no depth for these frames.
        """
