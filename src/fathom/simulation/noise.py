"""The noise that makes an expert's demonstrations teach recovery."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class ExpertNoise:
    """Disturbs the hand of an expert in runs of a few actions, so that demonstrations visit states off its path.

    Only what is *executed* is disturbed; the label stays what the expert wanted to do there (DART, Laskey et al. 2017).

    Attributes:
        std: of the constant offset on the first three components (x, y, z) during a noisy run, in units of the action.
        share: of runs that are noisy.
        hold: the longest run, in actions; lengths are uniform on 1..hold.
    """

    std: float = 0.4
    share: float = 0.5
    hold: int = 4

    def offsets(self, length: int, width: int, rng: np.random.Generator) -> Array:
        """float32 (length, width) to add to the executed actions; turns and the gripper are left alone."""
        rows: list[Array] = []
        while len(rows) < length:
            noisy = rng.random() < self.share
            offset = np.zeros(width, np.float32)
            offset[:3] = rng.normal(0.0, self.std, 3) * noisy
            rows.extend([offset] * int(rng.integers(1, self.hold + 1)))
        return np.stack(rows[:length])
