"""What a depth value means, and how it becomes a number between 0 and 1."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from fathom.errors import UserError

DepthKind = Literal["metric", "relative_inverse"]
"""``metric``: metres along the optical axis. ``relative_inverse``: disparity up to an unknown scale and shift, larger
is nearer. The two never mix: whatever holds depth says which it is."""

Array = np.ndarray


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


@dataclass(frozen=True)
class DepthVideo:
    """The depth of one episode's frames, with what it means.

    Attributes:
        values: metres, or relative inverse depth, by ``kind``; fp32.
        kind: see :data:`DepthKind`.
        valid: where the depth is known: False for the holes of a sensor.
        provenance: where it comes from: ``estimator``, ``input_size`` and whatever else tells one run from another.
    """

    values: Float[Array, "frames height width"]
    kind: DepthKind
    valid: Bool[Array, "frames height width"]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape != self.valid.shape:
            raise ValueError(f"values {self.values.shape} and valid {self.valid.shape} must be (frames, height, width)")

    def __len__(self) -> int:
        return len(self.values)

    def stored(self) -> "DepthVideo":
        """As a dataset keeps it: metres as they are, relative inverse depth in (0, 1]; 0 where it is not known.

        Relative inverse depth has another scale in every estimate, so it is normalised by its episode, never by its
        frame: the 2nd to 98th percentile of the episode's valid pixels become 0 to 1, and what lies beyond is clipped.

        Raises:
            UserError: no pixel of the episode is valid, or all of them have one depth.
        """
        if not self.valid.any():
            raise UserError("no pixel of the episode has a valid depth")
        known = self.values[self.valid]
        relative = self.kind == "relative_inverse"
        low, high = np.percentile(known, [2, 98] if relative else [0, 100]).tolist()
        if high - low <= 1e-6 * max(abs(low), abs(high), 1e-6):
            raise UserError(f"the depth of the episode is constant ({low:.4g} everywhere)")
        if self.kind == "metric":
            return DepthVideo(self._known(self.values), self.kind, self.valid, self.provenance)
        scaled = ((self.values - low) / (high - low)).clip(LOWEST, 1.0)
        provenance = {**self.provenance, "range": [low, high]}
        return DepthVideo(self._known(scaled), self.kind, self.valid, provenance)

    def _known(self, values: Array) -> Array:
        return np.where(self.valid, values, 0.0).astype(np.float32)


LOWEST = 1 / 4095
"""The smallest relative inverse depth that is stored: 0 means that it is not known."""
