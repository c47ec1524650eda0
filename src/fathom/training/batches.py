"""Endless batches of a dataset, from memory or decoded in workers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

from jaxtyping import Int
from torch import Tensor

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


def from_memory(
    memory: MemoryDataset, config: TrainingConfig, depth_codes: Int[Tensor, "frames tokens"] | None = None
) -> Batches:
    """Pictures are decoded already; with ``depth_codes`` the depth itself is left out of the batches."""
    order = ShuffledBatches(len(memory), config.batch_size, seed=config.seed)

    def batches(step: int) -> Iterator[Batch]:
        for position in count(step):
            frames = order.indices(position)
            batch = memory.batch(frames)
            yield batch if depth_codes is None else replace(batch, depth=None, depth_codes=depth_codes[frames])

    return batches
