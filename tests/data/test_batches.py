"""Batches: the same from samples, from the dataset, from workers and from memory; in an order that can be resumed."""

import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.conftest import GOLDEN, Recorded
from torch.utils.data import DataLoader

from fathom.data.batch import Batch
from fathom.data.collate import collate
from fathom.data.dataset import open_dataset
from fathom.data.loader import Loader, ShuffledBatches
from fathom.data.memory import MemoryDataset
from fathom.data.resize import resize
from fathom.errors import UserError


def assert_same(ours: Batch, theirs: Batch) -> None:
    for field in fields(Batch):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)
        elif isinstance(a, torch.Tensor):
            assert torch.equal(a, b) and a.dtype == b.dtype, field.name
        else:
            assert a == b, field.name


FRAMES = [0, 5, 31, 8, 9, 9, 20]


def test_a_batch_is_what_collate_makes_of_samples(recorded: Recorded) -> None:
    dataset = open_dataset(recorded.root, depth=True, horizon=3)
    batch = dataset.batch(FRAMES)
    assert_same(batch, collate([dataset[i] for i in FRAMES]))
    assert_same(batch, next(iter(DataLoader(dataset, sampler=FRAMES, batch_size=len(FRAMES), collate_fn=collate))))
    assert batch.images["main"].shape == (7, 3, 48, 64) and batch.images["wrist"].shape == (7, 3, 32, 32)
    assert batch.depth is not None and batch.depth.shape == (7, 1, 48, 64)
    assert batch.actions.shape == (7, 3, 2) and batch.action_is_pad.shape == (7, 3)
    assert batch.index is not None and batch.index.tolist() == FRAMES
    assert open_dataset(recorded.root).batch([0]).depth is None


def test_collate_refuses_what_a_policy_cannot_learn_from(recorded: Recorded) -> None:
    sample = open_dataset(recorded.root, depth=True)[0]
    with pytest.raises(UserError, match=r"no feature 'action'"):
        collate([{name: value for name, value in sample.items() if name != "action"}])
    depth = sample.pop("observation.images.main_depth")
    two = {**sample, "observation.images.left_depth": depth, "observation.images.right_depth": depth}
    with pytest.raises(UserError, match="left_depth, right_depth are read, but a policy learns one"):
        collate([two])
    assert collate([{**sample, "observation.images.left_depth": depth}]).depth is not None


@pytest.mark.parametrize("kind", ["recorded", "video", "image"])
def test_memory_holds_what_the_reader_returns(recorded: Recorded, kind: str) -> None:
    root = recorded.root if kind == "recorded" else GOLDEN / f"lerobot_v3_{kind}"
    dataset = open_dataset(root, depth=True, horizon=4)
    done: list[int] = []
    memory = MemoryDataset.load(dataset, progress=done.append)
    everything = list(range(len(dataset)))
    assert len(memory) == len(dataset) and sum(done) == 3 * len(dataset)
    assert_same(memory.batch(everything), collate([dataset[i] for i in everything]))
    assert_same(memory.batch(torch.tensor([3, 1])), dataset.batch([3, 1]))


def test_memory_resizes_as_resize_does(recorded: Recorded) -> None:
    dataset = open_dataset(recorded.root, cameras=["main"], depth=["main_depth"], split="train")
    memory = MemoryDataset.load(dataset, image_size=24, depth_size=16)
    batch, full = memory.batch(range(len(dataset))), dataset.batch(range(len(dataset)))
    assert torch.equal(batch.images["main"], resize(full.images["main"], 24))
    assert batch.depth is not None and full.depth is not None
    assert batch.depth.dtype == torch.float32
    torch.testing.assert_close(batch.depth, resize(full.depth, 16), atol=1e-3, rtol=1e-3)


def test_resize_is_antialiased_and_keeps_what_fits() -> None:
    stripes = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    stripes[..., ::2] = 200
    small = resize(stripes, 16)
    assert small.dtype == torch.uint8 and small.shape == (1, 3, 16, 16)
    assert (small.float() - 100).abs().max() <= 15  # without antialiasing it would be 0 or 200
    assert resize(stripes, 64) is stripes


@settings(deadline=None)
@given(
    length=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    world_size=st.integers(1, 3),
    start=st.integers(0, 20),
    seed=st.integers(0, 5),
)
def test_order_is_a_function_of_seed_and_step(
    length: int, batch_size: int, world_size: int, start: int, seed: int
) -> None:
    def sampler(rank: int, start_step: int = 0) -> ShuffledBatches:
        return ShuffledBatches(length, batch_size, seed=seed, start_step=start_step, rank=rank, world_size=world_size)

    undisturbed = [list(islice(sampler(rank), start + 3)) for rank in range(world_size)]
    for rank in range(world_size):
        assert list(islice(sampler(rank, start), 3)) == undisturbed[rank][start:]
    steps = zip(*undisturbed, strict=True)
    stream = [frame for step in steps for part in step for frame in part]  # ranks side by side
    for begin in range(0, len(stream) - length + 1, length):  # each epoch has every frame once
        assert sorted(stream[begin : begin + length]) == list(range(length))


def test_epochs_and_seeds_differ() -> None:
    sampler = ShuffledBatches(100, 10, seed=0)
    assert (sampler.order(0) != sampler.order(1)).any()
    assert (sampler.order(0) != ShuffledBatches(100, 10, seed=1).order(0)).any()
    with pytest.raises(UserError, match="no frame to train on"):
        ShuffledBatches(0, 10, seed=0)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_change_nothing(recorded: Recorded, start_method: str) -> None:
    dataset = open_dataset(recorded.root, depth=True, horizon=3)
    dataset.batch(FRAMES)  # decoders are open when the workers are forked
    alone = list(islice(Loader(dataset, 6, seed=3, start_step=2), 6))
    together = list(islice(Loader(dataset, 6, seed=3, start_step=2, workers=2, start_method=start_method), 6))
    assert len({tuple(batch.index.tolist()) for batch in alone if batch.index is not None}) == 6
    for ours, theirs in zip(together, alone, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_frame_in_a_worker_is_one_sentence(
    recorded: Recorded, copy_of: Callable[[Path], Path], workers: int
) -> None:
    root = copy_of(recorded.root)
    shutil.rmtree(root / "videos/observation.images.wrist")
    loader = Loader(open_dataset(root), 4, seed=0, workers=workers)
    with pytest.raises(UserError, match=r"observation\.images\.wrist.*: this video is missing") as raised:
        next(iter(loader))
    assert "Traceback" not in str(raised.value)


def test_batches_move_and_keep_their_type(recorded: Recorded) -> None:
    batch = open_dataset(recorded.root).batch([0, 1])
    moved: Any = batch.to("cpu")
    assert_same(moved, batch)
    assert len(replace(batch, state=batch.state * 2)) == 2
    assert np.asarray(moved.images["main"]).dtype == np.uint8
