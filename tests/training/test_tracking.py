"""What a training says of itself: beside the losses, how the machine is used, and how it does on held-out episodes."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fathom.errors import UserError
from fathom.recipes.examination import examination
from fathom.report import write_report
from fathom.training import throughput, tracking
from fathom.training.policy import train_policy
from fathom.training.settings import claim
from fathom.training.throughput import Peak
from fathom.training.tracking import WorkCounter, of_the_machine, open_trackers, perplexity

from .conftest import POLICY, STEPS, TRAINING, record


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(dataset, tokenizer_folder, tmp_path_factory) -> Path:
    """A training that is measured on the way."""
    from fathom.depth.tokenizer import DepthTokenizer

    folder = tmp_path_factory.mktemp("tracked") / "run"
    recipe = replace(POLICY, training=replace(TRAINING, evaluate_every=3))
    tokenizer = DepthTokenizer.load(tokenizer_folder)
    train_policy(dataset, recipe, folder, tokenizer, examine=examination(dataset, recipe, folder))
    return folder


def test_a_line_says_how_the_machine_is_used(run):
    for line in lines(run):
        assert line["samples_per_s_per_device"] == line["samples_per_s"]
        assert 0 < line["memory_gb"] < 100 and 0 < line["mfu"] < 1
        assert line["tflop"] == pytest.approx(lines(run)[0]["tflop"])
        assert line.keys() >= {
            "grad_norm_vlm",
            "grad_norm_depth",
            "grad_norm_action",
            "depth_accuracy",
            "data_wait_share",
        }


def test_held_out_episodes_are_measured_on_the_way(run):
    measured = [line["step"] for line in lines(run) if "held_out_action_error" in line]
    assert measured == [3, 6]
    for line in lines(run):
        if line["step"] in measured:
            assert line["held_out_action_error"] > 0 and 0 <= line["held_out_depth_delta_1"] <= 1
    assert {path.name for path in (run / "held_out").iterdir()} == {"step-000003.png", "step-000006.png"}
    assert (run / "held_out" / "step-000003.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_of_a_training_shows_them(run):
    page = write_report(run).read_text()
    (run / "report.html").unlink()
    assert f"Step {STEPS} of {STEPS}" in page
    for title in ("Action error (normalised units)", "Right depth tokens (%)", "Gradient norms", "after step 6"):
        assert title in page


def test_measuring_does_not_change_what_is_learnt(run, dataset, tokenizer, tmp_path):
    train_policy(dataset, POLICY, tmp_path / "plain", tokenizer)
    plain = [line["loss"] for line in lines(tmp_path / "plain")]
    assert [line["loss"] for line in lines(run)] == plain and len(plain) == STEPS


def test_without_held_out_episodes_nothing_can_be_measured(tmp_path):
    root = record(tmp_path / "dataset", depth=False)
    info = json.loads((root / "meta" / "info.json").read_text())
    (root / "meta" / "info.json").write_text(json.dumps({**info, "splits": {"train": "0:4"}}))
    asking = replace(POLICY, training=replace(TRAINING, evaluate_every=3))
    with pytest.raises(UserError, match="split 'validation'"):
        examination(root, asking, tmp_path)
    assert examination(root, POLICY, tmp_path) is None


def test_work_is_counted_once_in_the_first_pass():
    layer, batch = nn.Linear(8, 16, bias=False), torch.zeros(5, 8)
    work = WorkCounter(on=True)
    for _ in range(2):
        with work.counting(5):
            layer(batch)
    assert work.metrics(0.25)["tflop"].item() == pytest.approx(0.25 * 3 * 2 * 8 * 16 / 1e12)
    off = WorkCounter(on=False)
    with off.counting(5):
        layer(batch)
    assert off.metrics(1) == {}


def test_mfu_by_hand(monkeypatch):
    monkeypatch.setattr(tracking, "peak_of", lambda *_: Peak(4e12, "a test"))
    line = {"samples_per_s": 8.0, "tflop": 0.5}
    assert of_the_machine(line, 2, torch.device("cpu"), "bf16")["mfu"] == pytest.approx(8 / 2 * 0.5 / 4)
    monkeypatch.setattr(tracking, "peak_of", lambda *_: None)
    assert "mfu" not in of_the_machine(line, 2, torch.device("cpu"), "bf16")


def test_a_gpu_is_known_by_its_name(monkeypatch):
    throughput.peak_of.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    assert throughput.peak_of(torch.device("cuda", 0), "bf16").flops == 989e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla K80")
    assert throughput.peak_of(torch.device("cuda", 1), "bf16") is None
    throughput.peak_of.cache_clear()


def test_perplexity_is_the_number_of_equally_frequent_codes():
    assert perplexity(torch.tensor([2.0, 2.0, 2.0, 2.0])).item() == pytest.approx(4)
    assert perplexity(torch.tensor([[9.0, 0.0, 0.0]])).item() == pytest.approx(1)


def test_the_tokenizer_says_how_it_uses_its_codes(tokenizer_folder):
    assert all(1 <= line["codebook_perplexity"] <= 16 for line in lines(tokenizer_folder))


@pytest.mark.parametrize("service", ["tensorboard", "wandb"])
def test_a_service_that_is_missing_is_told(service, tmp_path, monkeypatch):
    for name in (service, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{service!r}, which is not installed.*fathom-vla\[tracking\]"):
        open_trackers([service], tmp_path)


def test_tensorboard_has_the_lines(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = open_trackers(["tensorboard"], tmp_path)
    tracker.write({"step": 4, "loss": 0.5})
    tracker.write({"step": 8, "loss": 0.25})
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(4, 0.5), (8, 0.25)]


def test_tensorboard_shows_what_is_told_again_once(tmp_path):
    """A run that is killed after step 8 and goes on from step 4 tells of step 8 twice."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for begun, lines in ((0, {4: 0.5, 8: 0.25}), (4, {8: 0.125})):
        (tracker,) = open_trackers(["tensorboard"], tmp_path, begun)
        for step, loss in lines.items():
            tracker.write({"step": step, "loss": loss})
        tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(4, 0.5), (8, 0.125)]


def test_a_folder_is_one_run_of_wandb(tmp_path, monkeypatch):
    """And no other one, whatever the folders are called; the project is the user's, the settings are sent."""
    begun = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **words: begun.append(words)))
    for folder in ("a/runs/policy", "a/runs/policy", "b/runs/policy"):
        claim(tmp_path / folder, POLICY)
        open_trackers(["wandb"], tmp_path / folder)
    first, again, other = (words["id"] for words in begun)
    assert first == again != other
    assert {words["name"] for words in begun} == {"policy"}
    assert begun[0]["project"] == "fathom" and begun[0]["config"]["training"]["steps"] == STEPS
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    open_trackers(["wandb"], tmp_path / "c")
    assert begun[-1]["project"] == "mine"


def test_wandb_has_them_offline_too(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tracker,) = open_trackers(["wandb"], tmp_path / "run")
    tracker.write({"step": 4, "loss": 0.5})
    tracker.close()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
