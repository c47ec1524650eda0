"""Endless batches of a dataset, from memory or decoded in workers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from rich.console import Console

from fathom.data.batch import Batch
from fathom.data.dataset import LeRobotDataset
from fathom.data.loader import Loader, ShuffledBatches
from fathom.data.memory import MemoryDataset
from fathom.errors import UserError
from fathom.progress import progress_bar
from fathom.training.config import TrainingConfig
from fathom.training.distributed import ALONE, World

Batches = Callable[[int], Iterator[Batch]]
"""The endless batches of a run from a given step on; in each process its own part of them."""


def from_workers(dataset: LeRobotDataset, config: TrainingConfig, world: World = ALONE) -> Batches:
    """Pictures are decoded by worker processes, again for every batch.

    Raises:
        UserError: the processes cannot share a batch evenly.
    """
    share = world.share_of(config.batch_size)

    def batches(step: int) -> Iterator[Batch]:
        return iter(
            Loader(
                dataset,
                share,
                seed=config.seed,
                start_step=step,
                workers=config.workers,
                rank=world.rank,
                world_size=world.size,
            )
        )

    return batches


@contextmanager
def worker_deaths_are_told() -> Iterator[None]:
    """Make a sentence of the death of a process that decodes pictures.

    Torch raises it from a signal handler: wherever the training happens to be, not only where it waits for a batch.

    Raises:
        UserError: a worker died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that decodes pictures died ({str(error).splitlines()[0]}): if memory ran out, lower "
            "training.workers; run the same command again to go on from the last checkpoint"
        ) from error


def load_into_memory(dataset: LeRobotDataset, image_size: int | None = None, *, quiet: bool = False) -> MemoryDataset:
    """Decode the whole dataset once, showing how far it is."""
    with progress_bar(Console(quiet=True) if quiet else None) as bar:
        task = bar.add_task("decoding", total=len(dataset) * len(dataset.pictures), note="pictures")
        return MemoryDataset.load(dataset, image_size=image_size, progress=lambda done: bar.advance(task, done))


def from_memory(memory: MemoryDataset, config: TrainingConfig, world: World = ALONE) -> Batches:
    """Pictures are decoded already.

    Raises:
        UserError: the processes cannot share a batch evenly.
    """
    share = world.share_of(config.batch_size)
    order = ShuffledBatches(len(memory), share, seed=config.seed, rank=world.rank, world_size=world.size)

    def batches(step: int) -> Iterator[Batch]:
        return (memory.batch(order.indices(position)) for position in count(step))

    return batches
