"""Batches: the same as samples, from the dataset, from workers and from memory; in an order that can be resumed."""

import shutil
import subprocess
import sys
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
from tests.data.conftest import FEATURES, GOLDEN, LENGTHS, Recorded, make_frames

from fathom.data.batch import Batch
from fathom.data.dataset import LeRobotDataset, open_dataset
from fathom.data.features import Feature
from fathom.data.loader import Loader, ShuffledBatches
from fathom.data.memory import MemoryDataset
from fathom.data.resize import resize
from fathom.data.writer import DatasetWriter
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
DEPTH = "observation.images.main_depth"


def stacked(dataset: LeRobotDataset, frames: list[int], depth: str | None = DEPTH) -> Batch:
    """A batch made of samples, one by one."""
    samples = [dataset[i] for i in frames]

    def stack(name: str | None) -> torch.Tensor | None:
        return torch.stack([sample[name] for sample in samples]) if name in samples[0] else None

    cameras = [name for name in samples[0] if name.startswith("observation.images.") and "depth" not in name]
    return Batch(
        images={name.removeprefix("observation.images."): stack(name) for name in cameras},
        state=stack("observation.state"),
        instruction=[sample["task"] for sample in samples],
        actions=stack("action"),
        action_is_pad=stack("action_is_pad"),
        depth=stack(depth),
        index=stack("index"),
        future_depth=stack("future_depth"),
        future_is_pad=stack("future_is_pad"),
    )


@pytest.mark.parametrize("future", [0, 3])
def test_a_batch_is_its_samples_stacked(recorded: Recorded, future: int) -> None:
    dataset = open_dataset(recorded.root, depth=True, horizon=3, future=future)
    batch = dataset.batch(FRAMES)
    assert_same(batch, stacked(dataset, FRAMES))
    assert batch.images["main"].shape == (7, 3, 48, 64) and batch.images["wrist"].shape == (7, 3, 32, 32)
    assert batch.depth is not None and batch.depth.shape == (7, 1, 48, 64)
    assert batch.actions.shape == (7, 3, 2) and batch.action_is_pad.shape == (7, 3)
    assert batch.index is not None and batch.index.tolist() == FRAMES
    assert (batch.future_depth is not None) == (batch.future_is_pad is not None) == bool(future)
    assert open_dataset(recorded.root).batch([0]).depth is None


def test_a_policy_learns_the_depth_of_main_or_the_only_one(tmp_path: Path) -> None:
    frames = make_frames(3, 0)
    names = ("left_depth", "right_depth")
    features = {name: FEATURES[name] for name in ("observation.images.main", "observation.state", "action")}
    features |= {f"observation.images.{name}": Feature.depth(48, 64) for name in names}
    scales = {f"observation.images.{name}": scale for name, scale in zip(names, (1, 2), strict=True)}
    frames |= {name: frames[DEPTH] * np.float32(scale) for name, scale in scales.items()}
    writer = DatasetWriter(tmp_path / "two", features, fps=20)
    writer.stage_episode(0, {name: frames[name] for name in features}, "push")
    root = writer.finish()
    dataset = open_dataset(root, depth=True)
    for read in (dataset.batch, lambda _: MemoryDataset.load(dataset)):
        with pytest.raises(UserError, match="left_depth, right_depth are read, but a policy learns one"):
            read([0])
    one = open_dataset(root, depth=["right_depth"])
    assert_same(one.batch([0, 2]), stacked(one, [0, 2], depth="observation.images.right_depth"))


def rows_ahead(frame: int, steps: int) -> tuple[int, bool]:
    """Counted by hand: the frame ``steps`` later, or the last of the episode."""
    ends = np.cumsum(LENGTHS)
    last = int(ends[np.searchsorted(ends, frame, side="right")]) - 1
    return min(frame + steps, last), frame + steps > last


def test_frames_ahead_stay_in_their_episode(recorded: Recorded) -> None:
    assert LENGTHS == [9, 4, 1, 12, 6]
    dataset = open_dataset(recorded.root, cameras=[], depth=True, future=4)
    rows, is_pad = dataset.ahead(np.array([0, 4, 5, 8, 9, 12, 13, 14, 21, 22, 31]))
    assert rows.tolist() == [4, 8, 8, 8, 12, 12, 13, 18, 25, 25, 31]
    assert is_pad.tolist() == [False, False, True, True, True, True, True, False, False, True, True]
    held_out = open_dataset(recorded.root, cameras=[], depth=True, future=4, split="validation")
    assert held_out.ahead(np.array([1, 2]))[0].tolist() == [5, 5]  # counted in the split, as everything is


@pytest.mark.parametrize("steps", [1, 4, 11])
def test_depth_ahead_is_that_of_the_later_frame(recorded: Recorded, steps: int) -> None:
    dataset = open_dataset(recorded.root, cameras=[], depth=True, future=steps)
    everything = range(len(dataset))
    ahead, is_pad = zip(*(rows_ahead(frame, steps) for frame in everything), strict=True)
    true = torch.from_numpy(recorded.all(DEPTH))[list(ahead), None]
    for batch in (dataset.batch(everything), MemoryDataset.load(dataset).batch(everything)):
        assert batch.future_is_pad is not None and batch.future_is_pad.tolist() == list(is_pad)
        assert batch.depth is not None and batch.future_depth is not None
        assert torch.equal(batch.future_depth, batch.depth[list(ahead)])
        torch.testing.assert_close(batch.future_depth, true, atol=2e-3, rtol=0)  # the codec's steps
    assert not any(torch.equal(batch.depth[i], batch.depth[i + 1]) for i in range(8))


def test_what_lies_ahead_of_every_episode_is_refused(recorded: Recorded) -> None:
    assert max(LENGTHS) == 12 and LENGTHS[4] == 6
    assert open_dataset(recorded.root, horizon=12).horizon == 12
    assert open_dataset(recorded.root, depth=True, future=11).future == 11
    with pytest.raises(UserError, match=r"horizon = 13 .* longest episode \(12 frames\) of .*: choose 12 at most"):
        open_dataset(recorded.root, horizon=13)
    with pytest.raises(UserError, match=r"horizon = 7 .* longest episode \(6 frames\)"):
        open_dataset(recorded.root, horizon=7, split="validation")
    with pytest.raises(UserError, match=r"future = 12 .* longest episode \(12 frames\) of .*: choose 11 at most"):
        open_dataset(recorded.root, depth=True, future=12)
    for wrong in ({"future": -1, "depth": True}, {"future": 2}):
        with pytest.raises(UserError, match=r"future = (-1|2): .* 0 without depth"):
            open_dataset(recorded.root, **wrong)


def test_each_picture_is_decoded_once(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(recorded.root, cameras=[], depth=True, future=2)
    decoded: list[int] = []
    read = LeRobotDataset.raw_picture
    monkeypatch.setattr(
        LeRobotDataset, "raw_picture", lambda self, name, i: (decoded.append(i), read(self, name, i))[1]
    )
    dataset.batch([7, 0, 2, 8])
    assert decoded == [0, 2, 4, 7, 8]


@pytest.mark.parametrize("kind", ["recorded", "video", "image"])
@pytest.mark.parametrize("future", [0, 3])
def test_memory_holds_what_the_reader_returns(recorded: Recorded, kind: str, future: int) -> None:
    root = recorded.root if kind == "recorded" else GOLDEN / f"lerobot_v3_{kind}"
    dataset = open_dataset(root, depth=True, horizon=4, future=future)
    done: list[int] = []
    memory = MemoryDataset.load(dataset, progress=done.append)
    everything = list(range(len(dataset)))
    assert len(memory) == len(dataset) and sum(done) == 3 * len(dataset)
    assert_same(memory.batch(everything), stacked(dataset, everything, depth=dataset.depth_feature))
    assert_same(memory.batch(torch.tensor([3, 1])), dataset.batch([3, 1]))


def test_memory_resizes_colour_as_resize_does(recorded: Recorded) -> None:
    dataset = open_dataset(recorded.root, cameras=["main"], depth=["main_depth"], split="train")
    memory = MemoryDataset.load(dataset, image_size=24)
    batch, full = memory.batch(range(len(dataset))), dataset.batch(range(len(dataset)))
    assert_same(batch, replace(full, images={"main": resize(full.images["main"], 24)}))


@pytest.mark.parametrize("future", [0, 4])
def test_memory_with_codes_gives_them_in_place_of_depth(recorded: Recorded, future: int) -> None:
    dataset = open_dataset(recorded.root, cameras=["main"], depth=True, future=future)
    codes = torch.randint(0, 256, (len(dataset), 5))
    memory = MemoryDataset.load(dataset)
    batch = memory.with_codes(codes).batch(FRAMES)
    expected = replace(memory.batch(FRAMES), depth=None, future_depth=None, depth_codes=codes[FRAMES])
    if future:
        expected = replace(expected, future_depth_codes=codes[[rows_ahead(frame, future)[0] for frame in FRAMES]])
    assert_same(batch, expected)


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
    dataset = open_dataset(recorded.root, depth=True, horizon=3, future=2)
    dataset.batch(FRAMES)  # decoders are open when the workers are forked
    alone = list(islice(Loader(dataset, 6, seed=3, start_step=2), 6))
    together = list(islice(Loader(dataset, 6, seed=3, start_step=2, workers=2, start_method=start_method), 6))
    assert len({tuple(batch.index.tolist()) for batch in alone if batch.index is not None}) == 6
    for ours, theirs in zip(together, alone, strict=True):
        assert_same(ours, theirs)


DYING = """
from itertools import count
from fathom.data.loader import DecodedBatches

class Frames:
    def __len__(self): return 9
    def batch(self, frames): return frames

stream = iter(DecodedBatches(Frames(), ([frame] for frame in count()), 2, None))
assert next(stream) == [0]
raise RuntimeError("an accident")
"""


@pytest.mark.slow
def test_workers_do_not_outlive_a_program_that_fails() -> None:
    """They outlive SIGTERM, by which multiprocessing asks its children to end before it waits for them."""
    done = subprocess.run([sys.executable, "-c", DYING], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: an accident\n") and "worker" not in done.stderr


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
