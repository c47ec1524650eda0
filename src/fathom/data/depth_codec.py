"""LeRobot's 12-bit code for depth in a video: fine near the camera, coarse far away."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

HIGHEST_CODE = 4095


@dataclass(frozen=True)
class DepthCodec:
    """Maps metres to codes 0…4095 and back.

    code = round(4095 · (f(d) − f(minimum)) / (f(maximum) − f(minimum))), f(d) = log(d + shift) or f(d) = d
    (lerobot 0.6, ``datasets/depth_utils.py``). With the defaults a step is 1.2 mm at the camera and 2.8 mm at 5 m.

    Attributes:
        minimum: depth in metres of code 0; everything nearer comes back as this.
        maximum: depth in metres of code 4095; everything farther comes back as this.
        shift: metres added before the logarithm.
        use_log: logarithmic codes, else linear ones.
        holes: code 0 says that the depth is not known, and comes back as 0 (in lerobot, which does not know of holes,
            as the minimum).
    """

    minimum: float = 0.01
    maximum: float = 10.0
    shift: float = 3.5
    use_log: bool = True
    holes: bool = False

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> Self:
        """From a feature's ``info``; what it leaves out has lerobot's default."""
        names = {"minimum": "video.depth_min", "maximum": "video.depth_max"}
        names |= {"shift": "video.shift", "use_log": "video.use_log"}
        names |= {"holes": "fathom.holes"}
        return cls(**{name: info[key] for name, key in names.items() if info.get(key) is not None})

    def to_info(self) -> dict[str, Any]:
        return {
            "video.depth_min": self.minimum,
            "video.depth_max": self.maximum,
            "video.shift": self.shift,
            "video.use_log": self.use_log,
            **({"fathom.holes": True} if self.holes else {}),
        }

    def encode(self, metres: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
        """Codes of ``metres``, any shape; NaN and what is not above 0 become 0, with ``holes`` nothing else does."""
        depth = np.clip(np.nan_to_num(metres, nan=self.minimum), self.minimum, self.maximum).astype(np.float32)
        low, high = self._ends
        scaled = np.log(depth + np.float32(self.shift)) if self.use_log else depth
        codes = np.rint((scaled - low) * (HIGHEST_CODE / (high - low))).clip(0, HIGHEST_CODE).astype(np.uint16)
        return np.where(metres > 0, np.maximum(codes, 1), 0).astype(np.uint16) if self.holes else codes

    def decode(self, codes: NDArray[np.uint16], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Metres of ``codes``, any shape; into ``out`` if given."""
        return self.table.take(codes, out=out, mode="clip")

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """Metres of each of the 4096 codes."""
        low, high = self._ends
        values = np.linspace(low, high, HIGHEST_CODE + 1)
        metres = np.exp(values) - self.shift if self.use_log else values
        table: NDArray[np.float32] = metres.clip(self.minimum, self.maximum).astype(np.float32)
        if self.holes:
            table[0] = 0.0
        return table

    @property
    def _ends(self) -> tuple[float, float]:
        if not self.use_log:
            return self.minimum, self.maximum
        return math.log(self.minimum + self.shift), math.log(self.maximum + self.shift)
