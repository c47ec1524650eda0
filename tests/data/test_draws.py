"""A sample's random numbers are its own."""

import torch

from fathom.data.batch import Batch
from fathom.data.draws import Draws


def batch_of(*frames: int) -> Batch:
    count = len(frames)
    pad = torch.zeros(count, 1, dtype=torch.bool)
    return Batch({}, torch.zeros(count, 1), [""] * count, torch.zeros(count, 1, 1), pad, index=torch.tensor(frames))


def test_they_do_not_depend_on_the_batch():
    draws = Draws(seed=3, step=5)
    whole = draws.normal(batch_of(4, 9, 2), (2, 3), "noise")
    assert whole.shape == (3, 2, 3)
    assert torch.equal(draws.normal(batch_of(2, 4), (2, 3), "noise"), whole[[2, 0]])
    assert torch.equal(draws.uniform(batch_of(9), (4,), "time")[0], draws.uniform(batch_of(4, 9), (4,), "time")[1])


def test_seed_step_sample_and_purpose_decide():
    first = Draws(1, 2).normal(batch_of(3), (1,), "noise").item()
    others = [
        Draws(2, 2).normal(batch_of(3), (1,), "noise"),
        Draws(1, 3).normal(batch_of(3), (1,), "noise"),
        Draws(1, 2).normal(batch_of(4), (1,), "noise"),
        Draws(1, 2).normal(batch_of(3), (1,), "crop"),
    ]
    assert first not in [other.item() for other in others]
    assert Draws(1, 2).shared("scale") == Draws(1, 2).shared("scale") != Draws(1, 3).shared("scale")


def test_they_are_distributed_as_they_say():
    draws, batch = Draws(), batch_of(*range(400))
    normal, uniform = draws.normal(batch, (50,), "noise"), draws.uniform(batch, (50,), "time")
    assert abs(normal.mean()) < 0.03 and abs(normal.std() - 1) < 0.03  # four standard errors are 0.028 and 0.02
    assert uniform.min() >= 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.01


def test_fresh_ones_follow_torchs_seed():
    torch.manual_seed(1)
    first = Draws.fresh()
    assert Draws.fresh() != first
    torch.manual_seed(1)
    assert Draws.fresh() == first
