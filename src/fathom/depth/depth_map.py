"""What a depth value means, and how it becomes a number between 0 and 1."""

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class LogRange:
    """Metric depth on one fixed logarithmic scale: ``near`` metres become 0, ``far`` metres 1; beyond is clipped.

    A fixed range keeps a code's meaning the same in every episode; the logarithm gives near and far the same
    relative precision.
    """

    near: float
    far: float

    def __post_init__(self) -> None:
        if not 0 < self.near < self.far:
            raise ValueError(f"a depth range needs 0 < near < far, not near={self.near}, far={self.far}")

    def normalize(self, metres: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Metres to [0, 1]; invalid values come out as some number in that range (see :func:`valid`)."""
        near, far = math.log(self.near), math.log(self.far)
        return (metres.nan_to_num(nan=self.far).clamp(self.near, self.far).log() - near) / (far - near)

    def denormalize(self, value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """[0, 1] back to metres."""
        near, far = math.log(self.near), math.log(self.far)
        return (near + value * (far - near)).exp()


def valid(depth: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Where a depth was measured: finite and above 0."""
    return depth.isfinite() & (depth > 0)
