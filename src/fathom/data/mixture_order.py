"""Which samples of a mixture of datasets belong to which step."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int
from torch.utils.data import Sampler

from fathom.data.loader import ShuffledBatches

Place = tuple[int, int]
"""The number of a dataset in the mixture, and a frame of it."""


class MixtureOrder(Sampler[list[Place]]):
    """Which samples belong to which step; it follows from (seed, step, rank) alone, in closed form.

    Samples are numbered through all steps and ranks. Number n goes to the first dataset if ⌊(n+1)·p⌋ > ⌊n·p⌋ with its
    share p; those that do not are numbered anew and go to the second in the same way with its share of the rest, and so
    on. So the first n samples hold each dataset's share to within fewer samples than there are datasets, and each
    sample knows how many of its dataset came before. That number finds its frame: every epoch of a dataset is
    a permutation that (seed, epoch) decide, so that no frame comes twice before all others came once.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        shares: Sequence[float],
        batch_size: int,
        *,
        seed: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        rest = np.cumsum(list(shares)[::-1])[::-1]
        self._of_the_rest = [*(share / left for share, left in zip(shares[:-1], rest[:-1], strict=True)), 1.0]
        self._orders = [ShuffledBatches(length, 1, seed=seed) for length in lengths]
        self.batch_size = batch_size
        self.start_step = start_step
        self.rank = rank
        self.world_size = world_size

    def places(self, step: int) -> list[Place]:
        """The samples of this rank at ``step``."""
        begin = (step * self.world_size + self.rank) * self.batch_size
        datasets, counts = self.draw(np.arange(begin, begin + self.batch_size))
        return [
            (part, self._frame(part, count)) for part, count in zip(datasets.tolist(), counts.tolist(), strict=True)
        ]

    def draw(self, samples: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """For samples by their numbers: the dataset, and how many samples of it came before."""
        datasets = np.full(len(samples), len(self._of_the_rest) - 1)
        counts = np.zeros(len(samples), np.int64)
        left, number = np.arange(len(samples)), np.asarray(samples, np.int64)
        for part, share in enumerate(self._of_the_rest):
            before, after = (np.floor(n * share).astype(np.int64) for n in (number, number + 1))
            taken = after > before
            datasets[left[taken]], counts[left[taken]] = part, before[taken]
            left, number = left[~taken], (number - before)[~taken]
        return datasets, counts

    def _frame(self, part: int, count: int) -> int:
        epoch, place = divmod(count, self._orders[part].length)
        return int(self._orders[part].order(epoch)[place])

    def __iter__(self) -> Iterator[list[Place]]:
        step = self.start_step
        while True:
            yield self.places(step)
            step += 1
