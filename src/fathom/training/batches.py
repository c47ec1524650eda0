"""Endless batches of a dataset, from memory or decoded in workers."""

from collections.abc import Callable, Iterator
from itertools import count

from fathom.data.batch import Batch
from fathom.data.dataset import LeRobotDataset
from fathom.data.loader import Loader, ShuffledBatches
from fathom.data.memory import MemoryDataset
from fathom.progress import progress_bar
from fathom.training.config import TrainingConfig

Batches = Callable[[int], Iterator[Batch]]
"""The endless batches of a run from a given step on."""


def from_workers(dataset: LeRobotDataset, config: TrainingConfig) -> Batches:
    """Pictures are decoded by worker processes, again for every batch."""

    def batches(step: int) -> Iterator[Batch]:
        return iter(Loader(dataset, config.batch_size, seed=config.seed, start_step=step, workers=config.workers))

    return batches


def load_into_memory(dataset: LeRobotDataset, image_size: int | None = None) -> MemoryDataset:
    """Decode the whole dataset once, showing how far it is."""
    with progress_bar() as bar:
        task = bar.add_task("decoding", total=len(dataset) * len(dataset.pictures), note="pictures")
        return MemoryDataset.load(dataset, image_size=image_size, progress=lambda done: bar.advance(task, done))


def from_memory(memory: MemoryDataset, config: TrainingConfig) -> Batches:
    """Pictures are decoded already."""
    order = ShuffledBatches(len(memory), config.batch_size, seed=config.seed)

    def batches(step: int) -> Iterator[Batch]:
        return (memory.batch(order.indices(position)) for position in count(step))

    return batches
