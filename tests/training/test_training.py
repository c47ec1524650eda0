"""The loop on a small problem: schedules, resuming to the same weights, and what is refused."""

import json
import math
import os
import signal
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fathom.data.batch import Batch
from fathom.errors import UserError
from fathom.training import loop
from fathom.training.checkpoint import Checkpoints, _Writer, finished, remove_all
from fathom.training.config import GroupScales, OptimizerConfig, TrainingConfig
from fathom.training.loop import train
from fathom.training.optimizer import Optimizer
from fathom.training.policy import PolicyRecipe
from fathom.training.settings import claim
from fathom.training.tokenizer import TokenizerRecipe, train_tokenizer

CONFIG = TrainingConfig(
    steps=12, batch_size=4, precision="fp32", ema_decay=0.9, log_every=3, checkpoint_every=4, keep_last=2,
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


def run(folder, config=CONFIG, kill_at=None, poison_at=(), terminate_at=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))

    def loss_of(batch, whole, step, draws):
        if step == kill_at:
            raise Killed
        if step == terminate_at:
            os.kill(os.getpid(), signal.SIGTERM)
        noise = draws.normal(batch, (1,), "noise").float()
        error = (model(batch.state + 0.1 * noise) - batch.actions[:, 0]).square().mean()
        return error * (math.nan if step in poison_at else 1.0), {"error": error}

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
        return [(line["step"], line["error"], line["lr"]) for line in read_log(tmp_path / name)]

    assert [step for step, *_ in log("whole")] == [3, 6, 9, 12]
    # the line that spans the kill holds the steps since the checkpoint alone
    assert [step for step, *_ in log("killed")] == [3, 6, 9, 12]
    assert log("killed")[-1] == pytest.approx(log("whole")[-1])


def test_the_saved_weights_are_the_average(tmp_path):
    last = run(tmp_path / "last", replace(CONFIG, ema_decay=0.0))
    averaged = run(tmp_path / "ema")
    assert not torch.equal(last, averaged)
    names = ("0.weight", "0.bias", "2.weight", "2.bias")
    state = read(tmp_path / "ema")
    torch.testing.assert_close(torch.cat([state[f"model.{name}"].flatten() for name in names]), last)
    torch.testing.assert_close(torch.cat([state[f"ema.{name}"].flatten() for name in names]), averaged)


def read(folder):
    """The tensors of a run's newest checkpoint."""
    (file,) = finished(folder)[-1].folder.glob("*.safetensors")
    return load_file(file)


def test_a_loss_that_is_no_number_stops(tmp_path):
    with pytest.raises(UserError, match="step 5"):
        run(tmp_path / "nan", poison_at=[5])


def test_a_checkpoint_is_what_was_there_when_it_was_begun(tmp_path):
    """It is written in the background: the tensors go on changing."""
    checkpoints, weight = Checkpoints(tmp_path), torch.ones(1000)
    checkpoints.save(1, {"weight": weight}, 0.0)
    weight.zero_()
    checkpoints.wait()
    loaded = torch.zeros(1000)
    checkpoints.load(checkpoints.newest(), {"weight": loaded})
    assert loaded.eq(1).all()


def test_a_half_written_checkpoint_is_never_seen(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": torch.zeros(2)}, 0.0)
    checkpoints.wait()

    def fail(writer, *_):
        (writer.folder / "shard.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_Writer, "write_data", fail)
    checkpoints.save(2, {"a": torch.ones(2)}, 0.0)
    with pytest.raises(UserError, match="disk is full"):
        checkpoints.wait()
    assert [saved.step for saved in finished(tmp_path)] == [1]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "no mark"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(damage, tmp_path, capsys):
    whole = run(tmp_path / "run")
    newest = finished(tmp_path / "run")[-1]
    assert newest.step == 12
    hurt(newest, damage)
    assert torch.equal(run(tmp_path / "run"), whole)  # from step 8
    assert f"{newest.folder} is damaged" in capsys.readouterr().err
    assert [saved.step for saved in finished(tmp_path / "run")] == [8, 12]  # the damaged one took nobody's place
    for saved in finished(tmp_path / "run"):
        hurt(saved, damage)
    with pytest.raises(UserError, match="no checkpoint that is whole"):
        run(tmp_path / "run")


def hurt(saved, damage):
    (file,) = saved.folder.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "no mark":
        (saved.folder / "checkpoint.json").write_text("")
    elif damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-10])
    else:
        content[-5] ^= 1
        file.write_bytes(content)


def test_the_last_and_the_best_checkpoints_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_best=1)
    for step, loss in enumerate([3.0, 1.0, 2.0, 4.0, 2.0], 1):
        checkpoints.save(step, {"a": torch.zeros(1)}, loss)
    checkpoints.wait()
    assert [saved.step for saved in finished(tmp_path)] == [2, 4, 5]
    remove_all(tmp_path, keep_best=1)
    assert [saved.step for saved in finished(tmp_path)] == [2]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run(tmp_path / "run")
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="another model"):
        train(nn.Linear(3, 1), None, batches, CONFIG, folder, label="test")


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    def narrow(width):
        model = nn.Linear(3, width)
        loss_of = lambda batch, *_: (model(batch.state).square().mean(), {})  # noqa: E731
        train(model, loss_of, batches, replace(CONFIG, steps=4), tmp_path, label="test")

    narrow(1)
    with pytest.raises(UserError, match=r"step-00000004 is of another model \(Size mismatch.*\): choose"):
        narrow(2)


def test_a_damaged_log_does_not_stop_a_resume(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, kill_at=9)
    log = tmp_path / "metrics.jsonl"
    log.write_text(log.read_text().replace('"step": 6', '"step": 6, oh'))
    run(tmp_path)
    assert [line["step"] for line in read_log(tmp_path)] == [3, 9, 12]


def read_log(folder):
    """As other programs read it: NaN and Infinity are no JSON."""

    def refuse(word):
        raise AssertionError(word)

    return [json.loads(line, parse_constant=refuse) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_skipping_for_ever_ends_the_run(tmp_path):
    """No line has a loss then, and no checkpoint."""
    with pytest.raises(UserError, match=r"the loss is nan at step 12, the 10th bad step in a row"):
        run(tmp_path, replace(CONFIG, steps=20, on_bad_loss="skip"), poison_at=range(3, 13))
    assert [("loss" in line, line.get("skipped")) for line in read_log(tmp_path)] == [
        (True, None), (False, 3), (False, 3), (False, 3),
    ]  # fmt: skip
    assert [saved.loss for saved in finished(tmp_path)][-1] is None
    assert len(list((tmp_path / "bad_batches").glob("*.safetensors"))) == 10


def test_trackers_are_closed_whatever_ends_the_training(tmp_path, monkeypatch):
    tracker = Mock()
    monkeypatch.setattr(loop, "open_trackers", lambda *_: [tracker])
    with pytest.raises(Killed):
        run(tmp_path, kill_at=5)
    assert tracker.write.call_count == 1 and tracker.close.call_count == 1


def test_a_bad_step_can_be_skipped(tmp_path):
    """Its batch is kept; the weights are those of a run whose optimiser did not move there."""
    skipping = replace(CONFIG, on_bad_loss="skip", ema_decay=0.0)
    weights = run(tmp_path / "skip", skipping, poison_at=[5])
    assert weights.isfinite().all()
    kept = load_file(tmp_path / "skip" / "bad_batches" / "step-00000005-rank-0.safetensors")
    torch.testing.assert_close(kept["state"], next(batches(5)).state)
    lines = read_log(tmp_path / "skip")
    assert [line.get("skipped") for line in lines] == [None, 1, None, None]
    assert all(math.isfinite(line["loss"]) for line in lines)


def test_a_loss_above_the_limit_stops(tmp_path):
    with pytest.raises(UserError, match=r"the loss is .*, above training.loss_limit 1e-06, at step 0"):
        run(tmp_path / "run", replace(CONFIG, loss_limit=1e-6))


def test_sigterm_saves_and_ends_with_143(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "run", terminate_at=5)
    assert stopped.value.code == 143
    assert finished(tmp_path / "run")[-1].step == 6
    assert torch.equal(run(tmp_path / "run"), whole)


def test_layers_can_be_computed_again(tmp_path):
    """Less memory, the same weights."""

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.3), nn.Tanh()) for _ in range(2))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    results, calls = [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = Deep()
        model.layers[0][0].register_forward_hook(lambda *_: calls.append(1))

        def loss_of(batch, whole, step, draws, model=model):
            return (model(batch.state) - batch.actions[:, 0]).square().sum() / len(whole), {}

        calls.clear()
        train(model, loss_of, batches, replace(CONFIG, recompute=recompute), tmp_path / str(recompute), label="test")
        results.append((torch.cat([p.detach().flatten() for p in model.parameters()]), len(calls)))
    assert torch.equal(results[0][0], results[1][0])
    assert [count for _, count in results] == [12, 24]


def test_the_parts_of_a_policy_have_their_own_learning_rates(tmp_path):
    model = nn.ModuleDict({"vision_tower": nn.Linear(1, 1), "depth_head": nn.Linear(1, 1), "head": nn.Linear(1, 1)})
    chosen = OptimizerConfig(lr=1e-2, warmup_steps=0, weight_decay=0, scale=GroupScales(vlm=0.1, depth=0.0))
    optimizer = Optimizer(model, replace(CONFIG, optimizer=chosen, ema_decay=0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.3)
    norms = optimizer.norms()
    assert norms["grad_norm"].item() == pytest.approx(0.3 * 6**0.5)
    assert norms["grad_norm_vlm"].item() == norms["grad_norm_action"].item() == pytest.approx(0.3 * 2**0.5)
    optimizer.update(norms["grad_norm"])
    moved = {name: (p.detach() - before[name]).abs().item() for name, p in model.named_parameters()}
    # AdamW's first step is the learning rate itself, whatever the gradient.
    assert moved["vision_tower.weight"] == pytest.approx(1e-3, rel=1e-3)
    assert moved["head.weight"] == pytest.approx(1e-2, rel=1e-3)
    assert moved["depth_head.weight"] == 0


def test_a_tokenizer_is_trained_by_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun sets it
    with pytest.raises(UserError, match=r"a depth tokenizer is trained by one process: .* without torchrun"):
        train_tokenizer(tmp_path / "dataset", TokenizerRecipe(), tmp_path / "tokenizer")
    assert not (tmp_path / "tokenizer").exists()


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    claim(tmp_path, PolicyRecipe())
    claim(tmp_path, PolicyRecipe())
    with pytest.raises(
        UserError, match=r"training\.steps is 1000 there and 7 here; training\.seed is 0 there and 1 here"
    ):
        claim(tmp_path, PolicyRecipe(training=TrainingConfig(steps=7, seed=1)))


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
