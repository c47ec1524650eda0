"""Random numbers that belong to samples, so that it does not matter in which batch or process a sample is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fathom.data.batch import Batch


@dataclass(frozen=True)
class Draws:
    """The random numbers of one training step.

    A sample's numbers follow from the seed, the step, the sample's frame index and what they are for. So they are the
    same on one process or on eight, in a whole batch or in a part of it.

    Attributes:
        seed: of the run.
        step: of the optimiser, from 0.
    """

    seed: int = 0
    step: int = 0

    @classmethod
    def fresh(cls) -> Self:
        """A set that torch's global generator chooses."""
        return cls(int(torch.randint(2**31, ())))

    def normal(self, batch: Batch, shape: Sequence[int], purpose: str) -> Float[Tensor, "batch *shape"]:
        """Standard normal numbers for each sample, in float64.

        Args:
            purpose: what they are for; other purposes have other numbers.
        """
        drawn = [self._generator(purpose, frame).standard_normal(tuple(shape)) for frame in _frames(batch)]
        return torch.from_numpy(np.stack(drawn))

    def uniform(self, batch: Batch, shape: Sequence[int], purpose: str) -> Float[Tensor, "batch *shape"]:
        """Numbers in [0, 1) for each sample, in float64; see :meth:`normal`."""
        drawn = [self._generator(purpose, frame).random(tuple(shape)) for frame in _frames(batch)]
        return torch.from_numpy(np.stack(drawn))

    def shared(self, purpose: str) -> float:
        """One number in [0, 1) that all samples of the step have in common."""
        return float(self._generator(purpose).random())

    def _generator(self, purpose: str, *frame: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.step, crc32(purpose.encode()), *frame])


def _frames(batch: Batch) -> list[int]:
    """The samples' frame indices; in a batch without them, their places in it."""
    return list(range(len(batch))) if batch.index is None else batch.index.tolist()
