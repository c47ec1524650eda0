"""The whole loop, end to end, at toy scale."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fathom
from fathom.cli.main import main
from fathom.data.batch import Observation
from fathom.data.dataset import open_dataset
from fathom.policies import load_policy
from fathom.recipes.quickstart import quickstart_toy
from fathom.training.checkpoint import finished


def start(*arguments: str, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "fathom", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A toy run with its baselines that is killed in the middle of co-training, and then run again."""
    folder = tmp_path_factory.mktemp("quickstart")
    command = ("quickstart", "--toy", "--compare", "--out", "run")
    first = start(*command, folder=folder)
    try:
        deadline = time.monotonic() + 300
        while not finished(folder / "run/policy"):
            assert first.poll() is None, first.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        first.kill()
        first.communicate()
    assert not (folder / "run/policy/config.json").exists()  # it was killed before it was done
    assert 0 < finished(folder / "run/policy")[-1].step < quickstart_toy().policy.training.steps
    untouched = (folder / "run/tokenizer/model.safetensors").stat().st_mtime_ns
    second = start(*command, folder=folder)
    output, _ = second.communicate(timeout=600)
    assert second.returncode == 0, output
    assert (folder / "run/tokenizer/model.safetensors").stat().st_mtime_ns == untouched  # it went on, not anew
    return folder / "run"


@pytest.mark.slow
def test_everything_lands_where_it_should(run):
    for name in ("dataset", "tokenizer", "policy", "compare/pi0", "compare/blind"):
        assert (run / name).is_dir()
    for name in ("qdepth_vla", "pi0", "blind", "expert", "random"):
        result = json.loads((run / "eval" / name / "results.json").read_text())
        assert result["summary"]["overall"]["n"] == 4
    expert = json.loads((run / "eval/expert/results.json").read_text())
    assert expert["summary"]["overall"]["successes"] == 4
    assert (run / "report.html").stat().st_size > 50_000
    assert not list(run.rglob("*.tmp"))
    assert not list(run.rglob("checkpoint.pt"))


@pytest.mark.slow
def test_the_killed_run_has_the_weights_of_an_undisturbed_one(run, tmp_path):
    """Bit for bit; in a process of its own, because it must compute with as many threads as the run did."""
    train = (
        "import sys; from pathlib import Path; from fathom import load_tokenizer\n"
        "from fathom.recipes.quickstart import quickstart_toy; from fathom.training.policy import train_policy\n"
        "run, folder = map(Path, sys.argv[1:])\n"
        "train_policy(run / 'dataset', quickstart_toy().policy, folder, load_tokenizer(run / 'tokenizer'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", train, str(run), str(tmp_path / "again")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    weights = "model.safetensors"
    assert (run / "policy" / weights).read_bytes() == (tmp_path / "again" / weights).read_bytes()


@pytest.mark.slow
def test_the_saved_policy_acts_and_predicts_depth(run):
    policy = fathom.load_policy(run / "policy")
    sample = open_dataset(run / "dataset", depth=True, split="validation")[0]
    observation = Observation(
        {"main": sample["observation.images.main"][None]}, sample["observation.state"][None], [sample["task"]]
    )
    assert policy.sample_actions(observation).shape == (1, 8, 4)
    depth = policy.predict_depth(observation)
    assert depth.shape == (1, 1, 128, 128)
    assert 0.35 <= depth.min() <= depth.max() <= 2.01
    assert load_policy(run / "compare/pi0").config.depth is None
    assert load_policy(run / "compare/blind").config.blind


@pytest.mark.slow
def test_the_same_folder_refuses_other_settings(run, capsys):
    assert main(["quickstart", "--out", str(run)]) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.slow
class TestBadInput:
    """One sentence, exit code 2, and nothing left behind."""

    def refused(self, capsys, *arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("fathom: ")
        assert said.count("\n") == 1, said
        return said

    def test_a_run_with_other_settings(self, run, capsys):
        said = self.refused(capsys, "train", run / "dataset", "--out", run / "policy", "--tokenizer", run / "tokenizer")
        assert "other settings" in said

    def test_a_damaged_policy(self, run, capsys, tmp_path):
        policy = Path(shutil.copytree(run / "compare/pi0", tmp_path / "policy"))
        path = policy / "model.safetensors"
        path.write_bytes(path.read_bytes()[:500])
        said = self.refused(capsys, "eval", policy, "--out", tmp_path / "out", "--tasks", "faucet-open")
        assert "damaged" in said
        assert not (tmp_path / "out").exists()

    def test_no_opengl(self, capsys, tmp_path):
        environment = {**os.environ, "MUJOCO_GL": "glfw", "DISPLAY": ""}
        done = subprocess.run(
            [sys.executable, "-m", "fathom", "collect", "--out", "data", "--tasks", "faucet-open", "--episodes", "2"],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "data").exists()
