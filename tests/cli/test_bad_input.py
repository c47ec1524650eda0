"""What a user can get wrong: one sentence, exit code 2, and nothing left behind."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fathom.cli.main import main
from fathom.data.features import Feature
from fathom.data.normalization import Normalization, Scaling
from fathom.data.writer import DatasetWriter
from fathom.depth.tokenizer import DepthTokenizer, DepthTokenizerConfig
from fathom.policies.policy import Policy
from fathom.policies.qdepth_vla import QDepthVLA
from fathom.policies.text import TextTokenizer
from fathom.recipes import POLICY_RECIPES, policy_recipe
from fathom.training.checkpoint import Checkpoints, finished
from fathom.training.config import TrainingConfig

TASKS = ["open the door", "push the puck"]
SIDE, STATE, ACTION = 32, 3, 2


def record(root: Path, *, depth: bool = True) -> Path:
    """Three episodes of eight frames, the last one for validation; every frame differs from the others."""
    features = {
        "observation.images.main": Feature.rgb(SIDE, SIDE),
        "observation.images.wrist": Feature.rgb(SIDE, SIDE),
        "observation.images.main_depth": Feature.depth(SIDE, SIDE),
        "observation.state": Feature.vector(STATE),
        "action": Feature.vector(ACTION),
    }
    if not depth:
        del features["observation.images.main_depth"]
    writer = DatasetWriter(root, features, fps=20)
    for number in range(3):
        random = np.random.default_rng(number)
        pictures = random.integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)
        frames = {
            "observation.images.main": pictures,
            "observation.images.wrist": 255 - pictures,
            "observation.images.main_depth": 0.5 + pictures[..., 0].astype(np.float32) / 255,
            "observation.state": random.normal(size=(8, STATE)).astype(np.float32),
            "action": random.normal(size=(8, ACTION)).astype(np.float32),
        }
        writer.stage_episode(number, {name: frames[name] for name in features}, TASKS[number % 2])
    return writer.finish({"train": range(2), "validation": range(2, 3)})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def small(monkeypatch) -> str:
    """The name of a recipe without depth that takes a moment."""
    full = policy_recipe("quickstart")
    training = TrainingConfig(steps=2, batch_size=2, precision="fp32", workers=0)
    recipe = replace(full, policy=replace(full.policy, depth=None), training=training)
    monkeypatch.setitem(POLICY_RECIPES, "small", lambda: recipe)
    return "small"


def make_policy() -> Policy:
    torch.manual_seed(0)
    text = TextTokenizer.from_instructions(TASKS)
    config = replace(
        policy_recipe("quickstart").policy, depth=None, state_dim=STATE, action_dim=ACTION, vocab_size=text.vocab_size
    )
    scalings = [Scaling((0.0,) * width, (1.0,) * width, clip=True) for width in (STATE, ACTION)]
    return QDepthVLA(config, Normalization("quantile", *scalings), text)


@pytest.fixture
def refused(capsys):
    """Runs a command that must be refused, and returns what it said."""

    def run(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("fathom: ")
        assert said.count("\n") == 1, said
        assert "Traceback" not in said
        return said

    return run


@pytest.fixture
def rejected(capsys):
    """The same for options that cannot be read: the parser says so in a box, and ends the program."""

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return " ".join(said.split())

    return run


TRAINERS = [("train",), ("tokenizer", "train")]


@pytest.mark.parametrize("verb", TRAINERS, ids=" ".join)
class TestTrainers:
    def test_a_missing_dataset(self, verb, refused, out, tmp_path):
        assert str(tmp_path / "nothing") in refused(*verb, tmp_path / "nothing", "--out", out)
        assert not out.exists()

    def test_a_folder_that_is_no_dataset(self, verb, refused, out, tmp_path):
        assert "meta/info.json" in refused(*verb, tmp_path, "--out", out)
        assert not out.exists()

    def test_an_unknown_recipe(self, verb, refused, dataset, out):
        assert "did you mean quickstart" in refused(*verb, dataset, "--out", out, "--recipe", "quikstart")
        assert not out.exists()

    def test_an_unknown_field(self, verb, rejected, dataset, out):
        said = rejected(*verb, dataset, "--out", out, "--training.step", "3")
        assert "--training.step" in said
        assert "--training.steps" in said
        assert not out.exists()

    def test_a_value_of_the_wrong_type(self, verb, rejected, dataset, out):
        assert "--training.steps" in rejected(*verb, dataset, "--out", out, "--training.steps", "many")
        assert not out.exists()

    def test_depth_that_the_data_lacks(self, verb, refused, out, tmp_path):
        assert "no depth" in refused(*verb, record(tmp_path / "blind", depth=False), "--out", out)
        assert not out.exists()


def test_a_camera_that_the_data_lacks(refused, dataset, out):
    said = refused("train", dataset, "--out", out, "--policy.cameras", "main", "left")
    assert "'left'" in said
    assert "main, wrist" in said  # what there is
    assert not out.exists()


def test_cameras_without_main(rejected, dataset, out):
    assert "must be 'main'" in rejected("train", dataset, "--out", out, "--policy.cameras", "wrist")
    assert not out.exists()


def test_depth_without_a_tokenizer(refused, dataset, out):
    assert "tokenizer" in refused("train", dataset, "--out", out)
    assert not out.exists()


def test_a_tokenizer_that_is_not_there(refused, dataset, out, tmp_path):
    said = refused("train", dataset, "--out", out, "--tokenizer", tmp_path / "none")
    assert "no depth tokenizer" in said
    assert not out.exists()


def test_a_tokenizer_of_another_size(refused, dataset, out, tmp_path):
    DepthTokenizer(DepthTokenizerConfig(image_size=32, grid=8, codes=16, width=16)).save(tmp_path / "tokenizer")
    assert "grid 8" in refused("train", dataset, "--out", out, "--tokenizer", tmp_path / "tokenizer")
    assert not out.exists()


class TestCorruptVideo:
    """A video file of which the second half is missing: it is named, and no run is begun."""

    def cut(self, dataset: Path, feature: str, tmp_path: Path) -> tuple[Path, Path]:
        root = Path(shutil.copytree(dataset, tmp_path / "cut"))
        (video,) = (root / "videos" / feature).rglob("*.mp4")
        video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
        return root, video

    def test_colour(self, refused, small, dataset, out, tmp_path):
        root, video = self.cut(dataset, "observation.images.main", tmp_path)
        assert str(video) in refused("train", root, "--out", out, "--recipe", small)
        assert not out.exists()

    def test_colour_read_while_training(self, refused, small, dataset, out, tmp_path):
        root, video = self.cut(dataset, "observation.images.main", tmp_path)
        said = refused("train", root, "--out", out, "--recipe", small, "--training.no-in-memory")
        assert str(video) in said
        assert not (out / "config.json").exists()

    def test_depth(self, refused, dataset, out, tmp_path):
        root, video = self.cut(dataset, "observation.images.main_depth", tmp_path)
        assert str(video) in refused("tokenizer", "train", root, "--out", out)
        assert not out.exists()


class TestAnotherConfiguration:
    def test_of_a_training_run(self, refused, small, dataset, out):
        assert main(["train", str(dataset), "--out", str(out), "--recipe", small]) == 0
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        said = refused("train", dataset, "--out", out, "--recipe", small, "--training.steps", "3")
        assert "training.steps is 2 there and 3 here" in said
        assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def test_of_a_checkpoint(self, refused, small, dataset, out):
        """Settings as they should be, beside the checkpoint of a model of another width."""
        main(["train", str(dataset), "--out", str(out), "--recipe", small])
        (out / "config.json").unlink()
        with Checkpoints(out) as checkpoints:
            checkpoints.save(1, {"model.weight": torch.zeros(2, 2)}, loss=0.5)
        (saved,) = finished(out)
        said = refused("train", dataset, "--out", out, "--recipe", small)
        assert str(saved.folder) in said and "of another model" in said
        assert not (out / "config.json").exists()

    def test_of_a_damaged_checkpoint(self, refused, small, dataset, out):
        main(["train", str(dataset), "--out", str(out), "--recipe", small])
        (out / "config.json").unlink()
        with Checkpoints(out) as checkpoints:
            checkpoints.save(1, {"model.weight": torch.zeros(2, 2)}, loss=0.5)
        (path,) = checkpoints.folder.rglob("*.safetensors")
        path.write_bytes(path.read_bytes()[:-4] + b"half")
        said = refused("train", dataset, "--out", out, "--recipe", small)
        assert str(checkpoints.folder) in said and "no checkpoint that is whole" in said

    def test_of_a_policy(self, refused, out, tmp_path):
        policy = make_policy()
        policy.save(tmp_path / "policy")
        config = json.dumps({"type": policy.kind, **asdict(replace(policy.config, expert_width=80))})
        (tmp_path / "policy" / "config.json").write_text(config)
        said = refused("eval", tmp_path / "policy", "--out", out, "--tasks", "faucet-open")
        assert "does not fit its configuration" in said
        assert not out.exists()

    def test_of_a_policy_cut_short(self, refused, out, tmp_path):
        make_policy().save(tmp_path / "policy")
        path = tmp_path / "policy" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:500])
        assert "damaged" in refused("eval", tmp_path / "policy", "--out", out, "--tasks", "faucet-open")
        assert not out.exists()


def test_a_policy_that_is_not_there(refused, out, tmp_path):
    assert "there is no such folder" in refused("eval", tmp_path / "nothing", "--out", out, "--tasks", "faucet-open")
    assert not out.exists()
