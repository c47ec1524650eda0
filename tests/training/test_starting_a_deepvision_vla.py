"""A DeepVision-VLA's training: what it may start from, and which pictures it learns from."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.policies.deepvision_vla.conftest import tiny_config, with_

from fathom.cli.main import main
from fathom.data.dataset import open_dataset
from fathom.data.features import Feature
from fathom.data.writer import DatasetWriter
from fathom.errors import UserError
from fathom.policies.deepvision_vla import PruningConfig
from fathom.recipes.deepvision import DeepVisionRecipe
from fathom.training.batches import load_into_memory
from fathom.training.policy import new_network, train_policy

from .conftest import SIDE, TRAINING

STILL = replace(TRAINING, steps=1, ema_decay=0.0)
RECIPE = DeepVisionRecipe(tiny_config(), STILL)
"""Tower and expert see 32 x 32, the dataset's pictures are of 40 x 40."""


def recipe_of(**changes) -> DeepVisionRecipe:
    return replace(RECIPE, policy=replace(RECIPE.policy, **changes))


def start(folder, dataset, **changes):
    new_network(open_dataset(dataset, horizon=4), recipe_of(**changes)).save(folder)
    return folder


@pytest.fixture(scope="module")
def base(dataset, tmp_path_factory):
    return start(tmp_path_factory.mktemp("start") / "policy", dataset)


@pytest.fixture(scope="module")
def baseline(dataset, tmp_path_factory):
    return start(tmp_path_factory.mktemp("start") / "baseline", dataset, expert=None)


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"pruning": PruningConfig(keep=65, first_layer=0)}, "pruning.keep is 65, but .* only 64 patch tokens"),
        ({"pruning": PruningConfig(first_layer=2)}, "only the first 2 of the language model"),
        ({"coupled": 3}, "policy.expert.coupled is 3 in the recipe, .* made for 2"),
        ({"bias": 0.0}, "policy.expert.bias is 0.0 in the recipe, .* made for -1.0"),
        ({"fusion": "early"}, "policy.expert.fusion is early in the recipe, .* made for mot"),
    ],
    ids=str,
)
def test_what_the_start_cannot_be_is_one_sentence(wish, told, base, dataset, tmp_path):
    large = recipe_of(layers=8, expert=with_(image_size=512, **wish))  # of these sizes the recipe can be
    with pytest.raises(UserError, match=told):
        train_policy(dataset, large, tmp_path / "out", init=base)
    assert not (tmp_path / "out").exists()


def test_more_layers_that_meet_than_the_start_has(baseline, dataset, tmp_path):
    recipe = recipe_of(layers=8, expert=with_(layers=6, coupled=5))
    with pytest.raises(UserError, match=r"expert\.coupled is 5, but the language model has only 4 layers"):
        train_policy(dataset, recipe, tmp_path / "out", init=baseline)
    assert not (tmp_path / "out").exists()


def test_the_bias_says_what_it_began_with(base, dataset):
    """The recipe's default, -10, is no wish; the weights' own is kept, in the configuration too."""
    opened = open_dataset(dataset, horizon=4)
    policy = new_network(opened, recipe_of(expert=with_(bias=-10.0)), init=base)
    assert policy.config.expert.bias == policy.mixture.bias.start == -1.0


def test_an_expert_that_is_never_trained_must_have_been(base, baseline, dataset):
    opened, aligned = open_dataset(dataset, horizon=4), recipe_of(expert=with_(fusion="aligned"))
    for init in (None, baseline):
        with pytest.raises(UserError, match="fusion is aligned, which never trains the vision expert"):
            new_network(opened, aligned, init=init)


def test_what_begins_untrained_is_told(baseline, dataset, tmp_path, capsys):
    train_policy(dataset, RECIPE, tmp_path / "out", init=baseline)
    assert "which begin untrained: mixture.bias, mixture.streams.expert\n" in capsys.readouterr().err


def test_one_that_comes_with_its_expert_is_trained(dataset, tmp_path, make_aligned):
    opened, aligned = open_dataset(dataset, horizon=4), recipe_of(expert=with_(fusion="aligned"))
    assert new_network(opened, aligned, init=make_aligned(tmp_path / "aligned")).whole_expert is not None


@pytest.fixture
def make_aligned(base):
    """A start with an aligned expert, as an import makes it."""

    def make(folder):
        values = json.loads((base / "config.json").read_text())
        values["expert"] |= {"fusion": "aligned"}
        folder.mkdir()
        for file in base.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "config.json").write_text(json.dumps(values))
        return folder

    return make


def test_a_camera_of_another_aspect_is_told_before_anything_is_begun(tmp_path, capsys):
    """In memory its pictures would be squeezed, and acting would refuse them."""
    features = {
        "observation.images.main": Feature.rgb(24, 32),
        "observation.state": Feature.vector(5),
        "action": Feature.vector(3),
    }
    writer = DatasetWriter(tmp_path / "wide", features, 10)
    random = np.random.default_rng(0)
    frames = {
        "observation.images.main": random.integers(0, 256, (8, 24, 32, 3), dtype=np.uint8),
        "observation.state": random.normal(size=(8, 5)).astype(np.float32),
        "action": random.normal(size=(8, 3)).astype(np.float32),
    }
    writer.stage_episode(0, frames, "open it")
    writer.finish({"train": range(1)})
    words = ["train", str(tmp_path / "wide"), "--recipe", "deepvision_quickstart", "--training.steps", "1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "camera 'main' gives pictures of 32 x 24 pixels" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tower, expert", [(32, 64), (32, 32), (48, 32), (16, 24)])
def test_training_sees_the_pictures_that_acting_sees(tower, expert, dataset):
    """Pictures in memory against pictures as they are recorded (and as a camera gives them)."""
    vision = replace(RECIPE.policy.vision, image_size=tower)
    recipe = recipe_of(vision=vision, expert=with_(image_size=expert, pruning=None))
    opened = open_dataset(dataset, horizon=4)
    assert tower != SIDE != expert
    policy = new_network(opened, recipe)
    memory = load_into_memory(opened, policy.config.stored_size, quiet=True)
    trained, acted = (policy.prepare(source.batch([0, 5])) for source in (memory, opened))
    assert torch.equal(trained.pixels, acted.pixels)
    assert torch.equal(trained.expert_pixels, acted.expert_pixels)
