"""Batches in an endless, reproducible order, decoded in workers."""

import atexit
import signal
from collections.abc import Collection, Iterator
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from fathom.data.batch import Batch
from fathom.data.dataset import LeRobotDataset
from fathom.errors import UserError


class ShuffledBatches(Sampler[list[int]]):
    """Which frames belong to which step.

    The frames of epoch e are a permutation that only (seed, e) decide; epochs follow each other without a gap, and step
    k takes the next ``batch_size`` × ``world_size`` of them, of which each rank has its own part. So a run resumed at
    step k, whatever happened before, sees what an undisturbed one would.
    """

    def __init__(
        self, length: int, batch_size: int, *, seed: int, start_step: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if length < 1:
            raise UserError("the dataset has no frame to train on; check the split and the episodes.")
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.rank = rank
        self.world_size = world_size
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    def indices(self, step: int) -> NDArray[np.int64]:
        """The frames (batch_size,) of this rank at ``step``."""
        begin = (step * self.world_size + self.rank) * self.batch_size
        epochs, places = np.divmod(np.arange(begin, begin + self.batch_size), self.length)
        return np.concatenate([self.order(int(e))[places[epochs == e]] for e in np.unique(epochs)])

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The permutation (length,) of an epoch."""
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.length)
        return self._epoch[1]

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start_step
        while True:
            yield self.indices(step).tolist()
            step += 1


class Loader:
    """Endless batches of a dataset from ``start_step`` on; pictures are decoded in ``workers`` processes."""

    def __init__(
        self,
        dataset: LeRobotDataset,
        batch_size: int,
        *,
        seed: int,
        start_step: int = 0,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start_method: str | None = None,
    ) -> None:
        sampler = ShuffledBatches(
            len(dataset), batch_size, seed=seed, start_step=start_step, rank=rank, world_size=world_size
        )
        self._batches = DecodedBatches(dataset, sampler, workers, start_method)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)


class HasBatches(Protocol):
    """What can be loaded: a dataset, or a mixture of them."""

    def __len__(self) -> int: ...

    def batch(self, frames: Any, /) -> Batch: ...


class DecodedBatches:
    """The batches that a sampler names, decoded in ``workers`` processes."""

    def __init__(self, dataset: HasBatches, sampler: Sampler[Any], workers: int, start_method: str | None) -> None:
        self._batches: DataLoader[Any] = DataLoader(
            _WholeBatches(dataset),
            batch_sampler=sampler,
            collate_fn=_as_it_is,
            num_workers=workers,
            multiprocessing_context=start_method if workers else None,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_outlive_sigterm,
        )

    def __iter__(self) -> Iterator[Batch]:
        others = set(active_children())
        batches = iter(self._batches)  # starts the workers
        atexit.register(_kill, set(active_children()) - others)
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield batch


class _WholeBatches(Dataset[Any]):
    """Whole batches of a dataset. A bad frame is a value, not an exception, which torch would wrap in a traceback."""

    def __init__(self, dataset: HasBatches) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, i: int) -> Any:
        raise TypeError("this dataset gives whole batches")

    def __getitems__(self, frames: list[int]) -> Batch | UserError:
        try:
            return self._dataset.batch(frames)
        except UserError as error:
            return error


def _outlive_sigterm(_worker: int) -> None:
    """A cluster sends SIGTERM to the whole job: the step that is still to be ended and saved needs its batch."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _kill(workers: Collection[BaseProcess]) -> None:
    """At the program's end, whatever it ends of: multiprocessing would send SIGTERM and wait, for ever."""
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would take it for an accident
    for worker in workers:
        worker.kill()


def _as_it_is(batch: Any) -> Any:
    """Workers hand over whole batches: there is nothing to collate."""
    return batch
