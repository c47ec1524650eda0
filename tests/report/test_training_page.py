"""The page of one training: what was logged, and nothing that was not."""

import json
from dataclasses import asdict

import pytest

from fathom.report import write_report
from fathom.training.config import TrainingConfig
from fathom.training.policy import PolicyRecipe
from fathom.training.settings import claim

LINES = [
    {"step": 10, "loss": 2.5, "action_loss": 2.0, "grad_norm": 3.0, "grad_norm_vlm": 1.0, "grad_norm_depth": 0.0,
     "samples_per_s": 16.0, "data_wait_share": 0.25, "lr": 1e-4, "tflop": 0.5},
    {"step": 20, "loss": float("nan"), "skipped": 10, "samples_per_s": 16.0, "data_wait_share": 0.25, "lr": 1e-4},
    {"step": 30, "loss": 1.25, "action_loss": 1.0, "grad_norm": 2.0, "grad_norm_vlm": 1.0, "grad_norm_depth": 0.0,
     "samples_per_s": 16.0, "data_wait_share": 0.5, "lr": 1e-4, "tflop": 0.5, "held_out_action_error": 0.5},
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    claim(tmp_path, PolicyRecipe(training=TrainingConfig(steps=630, batch_size=8, seed=4711)), dataset="abc")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path


def test_it_shows_what_was_logged(folder):
    page = write_report(folder).read_text()
    # 600 steps of 8 samples at 16 a second are 300 seconds
    assert "Step 30 of 630: loss 1.25, about 5 minutes to go at this rate." in page
    for title in ("Loss, all its terms", "Action loss", "Gradient norms", "Waiting for data (% of the time)"):
        assert page.count(f"<h3>{title}</h3>") == 1
    assert "<h2>Held-out episodes</h2>" in page and "Action error (normalised units)" in page
    assert "&quot;seed&quot;: 4711" in page and "&quot;dataset&quot;: &quot;abc&quot;" in page
    assert "Skipped" in page, "what has no title of its own is drawn too"
    for absent in ("Depth loss", "Model FLOPs", "Tflop", ">depth<"):  # not logged, the same at every step, all zero
        assert absent not in page


def test_a_line_that_is_being_written_is_left_out(folder):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    assert "Step 30 of 630" in write_report(folder).read_text()


def test_a_training_that_has_only_begun(tmp_path):
    claim(tmp_path, PolicyRecipe())
    page = write_report(tmp_path).read_text()
    assert "has logged nothing yet" in page and "Configuration" in page and "<svg" not in page


def test_one_that_is_done_has_nothing_to_go(folder):
    settings = json.loads((folder / "settings.json").read_text())
    done = {**settings, "training": asdict(TrainingConfig(steps=30))}
    (folder / "settings.json").write_text(json.dumps(done))
    assert "Step 30 of 30: loss 1.25." in write_report(folder).read_text()
