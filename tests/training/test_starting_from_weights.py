"""Training that starts from a policy or an imported checkpoint."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from fathom.data.dataset import open_dataset
from fathom.data.draws import Draws
from fathom.errors import UserError
from fathom.policies import load_policy
from fathom.training.policy import train_policy

from .conftest import POLICY, TRAINING, WITHOUT_DEPTH, record

STILL = replace(TRAINING, steps=1, ema_decay=0.0, optimizer=replace(TRAINING.optimizer, lr=1e-9, weight_decay=0.0))


@pytest.fixture(scope="module")
def base(dataset, tmp_path_factory):
    """A policy without depth, as an import with ``--depth none`` leaves it."""
    folder = tmp_path_factory.mktemp("base") / "policy"
    train_policy(dataset, WITHOUT_DEPTH, folder)
    return folder


def moved(ours, theirs) -> set[str]:
    """The parameters that differ by more than a step of 1e-9 could do."""
    theirs = dict(theirs.named_parameters())
    return {
        name
        for name, p in ours.named_parameters()
        if name in theirs and not torch.allclose(p, theirs[name], atol=1e-6, rtol=0)
    }


def test_every_weight_is_taken_over_and_the_depth_expert_is_added(base, dataset, tokenizer, tmp_path):
    policy = train_policy(dataset, replace(POLICY, training=STILL), tmp_path / "policy", tokenizer, init=base)
    start = load_policy(base)
    assert moved(policy, start) == set()
    added = dict(policy.named_parameters()).keys() - dict(start.named_parameters()).keys()
    assert added and all(name.startswith(("depth_head", "mixture.streams.depth", "depth_tokenizer")) for name in added)
    assert torch.equal(policy.depth_head.target.codebook, tokenizer.codebook)


def test_sizes_come_from_the_weights_and_choices_from_the_recipe(base, dataset, tmp_path):
    recipe = replace(WITHOUT_DEPTH, policy=replace(WITHOUT_DEPTH.policy, vlm_width=64, horizon=2), training=STILL)
    policy = train_policy(dataset, recipe, tmp_path / "policy", init=base)
    assert (policy.config.vlm_width, policy.config.horizon) == (32, 2)
    assert moved(policy, load_policy(base)) == set()


def test_the_depth_expert_of_the_start_goes_on_with_its_tokenizer(base, dataset, tokenizer, tmp_path):
    with_depth = train_policy(dataset, replace(POLICY, training=STILL), tmp_path / "first", tokenizer, init=base)
    again = train_policy(dataset, replace(POLICY, training=STILL), tmp_path / "second", tokenizer, tmp_path / "first")
    assert moved(again, with_depth) == set()
    without = train_policy(dataset, replace(WITHOUT_DEPTH, training=STILL), tmp_path / "third", init=tmp_path / "first")
    assert moved(without, with_depth) == set()
    assert without.config.depth is None


def test_a_larger_network_serves_a_smaller_robot(dataset, tmp_path):
    """State and actions are padded with zeros, and what stands behind the robot's own numbers does not count."""
    small = record(tmp_path / "small", actions=2)
    recipe = replace(WITHOUT_DEPTH, training=STILL)
    base = train_policy(dataset, recipe, tmp_path / "base")
    policy = train_policy(small, recipe, tmp_path / "policy", init=tmp_path / "base")
    assert policy.noise_shape == base.noise_shape == (4, 3)
    batch = open_dataset(small, horizon=4).batch([0, 1])
    assert policy.sample_actions(batch).shape == (2, 4, 2)
    policy.zero_grad()
    policy.loss(batch, Draws(0)).action.backward()
    grad = policy.action_decoder.weight.grad
    assert grad[:2].any() and not grad[2].any()


def test_a_larger_robot_gets_columns_that_begin_at_zero(dataset, tmp_path):
    """Of the numbers that the start knew, the actions are what they were."""
    base = tmp_path / "base"
    start = train_policy(record(tmp_path / "small", actions=2, states=4), replace(WITHOUT_DEPTH, training=STILL), base)
    policy = train_policy(dataset, replace(WITHOUT_DEPTH, training=STILL), tmp_path / "policy", init=base)
    assert (policy.config.state_dim, policy.config.action_dim) == (5, 3)
    for name in ("proprio_encoder.weight", "action_encoder.linear_1.weight"):
        wide, narrow = policy.get_parameter(name), start.get_parameter(name)
        torch.testing.assert_close(wide[:, :-1], narrow, atol=1e-6, rtol=0)
        assert wide[:, -1].abs().max() < 1e-6
    torch.testing.assert_close(policy.action_decoder.weight[:2], start.action_decoder.weight, atol=1e-6, rtol=0)
    assert policy.action_decoder.weight[2].abs().max() < 1e-6


def test_the_length_of_the_text_is_the_recipes(base, dataset, tmp_path):
    recipe = replace(WITHOUT_DEPTH, policy=replace(WITHOUT_DEPTH.policy, text_tokens=11), training=STILL)
    assert train_policy(dataset, recipe, tmp_path / "policy", init=base).config.text_tokens == 11
    short = replace(recipe, policy=replace(recipe.policy, text_tokens=3))
    with pytest.raises(UserError, match="the policy reads 3"):
        train_policy(dataset, short, tmp_path / "other", init=base)
    assert not (tmp_path / "other").exists()  # nothing is claimed, so the next attempt may have other settings


def test_bounds_of_quantiles_do_not_go_with_deviations(base, dataset, tmp_path):
    bounded = tmp_path / "bounded"
    shutil.copytree(base, bounded)
    config = json.loads((bounded / "config.json").read_text())
    (bounded / "config.json").write_text(json.dumps({**config, "clip_actions": 1.0}))
    recipe = replace(WITHOUT_DEPTH, training=STILL)
    assert train_policy(dataset, recipe, tmp_path / "a", init=bounded).config.clip_actions == 1
    recipe = replace(recipe, normalization="mean_std")
    assert train_policy(dataset, recipe, tmp_path / "b", init=bounded).config.clip_actions is None


def test_a_start_that_is_not_there(dataset, tmp_path):
    with pytest.raises(UserError, match="is missing"):
        train_policy(dataset, WITHOUT_DEPTH, tmp_path / "policy", init=tmp_path / "nowhere")
    assert not (tmp_path / "policy").exists()


def test_a_run_from_another_start_is_another_run(base, dataset, tmp_path):
    train_policy(dataset, replace(WITHOUT_DEPTH, training=STILL), tmp_path / "policy")
    with pytest.raises(UserError, match="init"):
        train_policy(dataset, replace(WITHOUT_DEPTH, training=STILL), tmp_path / "policy", init=base)


def test_without_a_depth_tokenizer_it_is_no_policy_yet(dataset, tokenizer, tmp_path):
    train_policy(dataset, replace(POLICY, training=STILL), tmp_path / "policy", tokenizer)
    shutil.rmtree(tmp_path / "policy" / "depth_tokenizer")
    with pytest.raises(UserError, match="a start for training"):
        load_policy(tmp_path / "policy")


def test_where_it_comes_from_is_saved_with_it(base, dataset, tmp_path):
    train_policy(dataset, replace(WITHOUT_DEPTH, training=STILL), tmp_path / "policy", init=base)
    provenance = load_policy(tmp_path / "policy").provenance
    assert provenance.base is None  # nothing here came from the hub
    assert provenance.recipe["policy"]["state_dim"] == 5 and provenance.recipe["policy"]["vocab_size"] < 20
    assert provenance.data["frames"] == 24 and provenance.data["tasks"] == ["open it", "push the box"]
    assert provenance.recipe["training"]["optimizer"]["lr"] == 1e-9
    assert provenance.metrics["step"] == 1
