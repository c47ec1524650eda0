"""The loop on a small problem: schedules, resuming to the same weights, and what is refused."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fathom.data.batch import Batch
from fathom.errors import UserError
from fathom.training.checkpoint import load_state, save_state
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.training.loop import train
from fathom.training.policy import PolicyRecipe
from fathom.training.settings import claim

CONFIG = TrainingConfig(
    steps=12, batch_size=4, precision="fp32", ema_decay=0.9, log_every=3, checkpoint_every=4,
    optimizer=OptimizerConfig(lr=1e-2, warmup_steps=3, cycle_steps=12),
)  # fmt: skip


def batches(step):
    while True:
        generator = torch.Generator().manual_seed(step)
        state = torch.randn(4, 3, generator=generator)
        yield Batch({}, state, [""] * 4, state.sum(-1)[:, None, None], torch.zeros(4, 1, dtype=torch.bool))
        step += 1


class Killed(Exception):
    pass


def run(folder, config=CONFIG, kill_at=None, poison_at=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))

    def loss_of(batch, whole, step, generator):
        if step == kill_at:
            raise Killed
        noise = torch.randn(4, 1, generator=generator)
        error = (model(batch.state + 0.1 * noise) - batch.actions[:, 0]).square().mean()
        return error * (math.nan if step == poison_at else 1.0), {"error": error}

    folder.mkdir(exist_ok=True)
    train(model, loss_of, batches, config, folder, label="test")
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("kill_at", [1, 4, 7, 11])
def test_a_killed_run_ends_with_the_same_weights_and_log(kill_at, tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill_at=kill_at)
    assert torch.equal(run(tmp_path / "killed"), whole)

    def log(name):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [(line["step"], line["error"], line["lr"]) for line in lines]

    assert [step for step, *_ in log("whole")] == [3, 6, 9, 12]
    # the line that spans the kill holds the steps since the checkpoint alone
    assert [step for step, *_ in log("killed")] == [3, 6, 9, 12]
    assert log("killed")[-1] == pytest.approx(log("whole")[-1])


def test_the_saved_weights_are_the_average(tmp_path):
    last = run(tmp_path / "last", replace(CONFIG, ema_decay=0.0))
    averaged = run(tmp_path / "ema")
    assert not torch.equal(last, averaged)
    state = load_state(tmp_path / "ema")
    model = torch.cat([state["model"][k].flatten() for k in ("0.weight", "0.bias", "2.weight", "2.bias")])
    torch.testing.assert_close(model, last)
    torch.testing.assert_close(torch.cat([t.flatten() for t in state["ema"]]), averaged)


def test_a_loss_that_is_no_number_stops(tmp_path):
    with pytest.raises(UserError, match="step 5"):
        run(tmp_path / "nan", poison_at=5)


def test_a_half_written_checkpoint_is_never_seen(tmp_path, monkeypatch):
    save_state(tmp_path, {"step": 1})

    def fail(_, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fathom.training.checkpoint.torch.save", fail)
    with pytest.raises(UserError, match="disk is full"):
        save_state(tmp_path, {"step": 2})
    assert load_state(tmp_path) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_damaged_checkpoint_is_told(tmp_path):
    save_state(tmp_path, {"step": 1})
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="damaged"):
        load_state(tmp_path)


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    claim(tmp_path, PolicyRecipe())
    claim(tmp_path, PolicyRecipe())
    with pytest.raises(UserError, match=r"training\.steps is 1000 there and 7 here"):
        claim(tmp_path, PolicyRecipe(training=TrainingConfig(steps=7)))


def test_the_learning_rate_follows_its_schedule():
    schedule = OptimizerConfig(lr=2.0, warmup_steps=4, cycle_steps=14, final_share=0.1)
    assert [schedule.lr_at(step) for step in range(4)] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert schedule.lr_at(9) == pytest.approx(2 * (0.1 + 0.9 * 0.5))
    assert schedule.lr_at(14) == schedule.lr_at(99) == pytest.approx(0.2)
    paper = OptimizerConfig()
    assert paper.lr_at(199) == paper.lr == 5e-5
    assert paper.lr_at(100_000) == pytest.approx(5e-5, rel=1e-3)


def test_the_depth_weight_decays_geometrically():
    recipe = PolicyRecipe(training=TrainingConfig(steps=101), depth_weight=0.01)
    assert recipe.depth_weight_at(0) == 0.01
    assert recipe.depth_weight_at(50) == pytest.approx(0.01 * 0.1**0.5)
    assert recipe.depth_weight_at(100) == pytest.approx(0.001)
    assert replace(recipe, depth_weight_decay=0.9).depth_weight_at(2) == pytest.approx(0.01 * 0.81)
