"""The recipes of DeepVision-VLA."""

from dataclasses import replace

import pytest
import torch

from fathom.policies.deepvision_vla import DeepVisionVLA, DeepVisionVLAConfig
from fathom.recipes import policy_recipe
from fathom.recipes.deepvision import (
    deepvision_depth_quickstart,
    deepvision_libero,
    deepvision_metaworld,
    deepvision_quickstart,
)
from fathom.training.config import GroupScales
from fathom.training.optimizer import Optimizer


def parameters(recipe) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in DeepVisionVLA(recipe.policy).parameters())


def test_sizes_are_what_they_are_said_to_be():
    """With a vocabulary as small as a quickstart's, where there are no imported weights."""
    small = {
        recipe: replace(recipe(), policy=replace(recipe().policy, vocab_size=30))
        for recipe in (deepvision_metaworld, deepvision_quickstart)
    }
    assert parameters(small[deepvision_metaworld]) == pytest.approx(36e6, rel=0.05)
    assert parameters(small[deepvision_quickstart]) == pytest.approx(2e6, rel=0.1)


def test_the_full_size_is_the_papers():
    assert deepvision_libero().policy == DeepVisionVLAConfig()


def test_both_at_once_is_the_quickstart_with_a_depth_expert():
    plain, both = deepvision_quickstart(), deepvision_depth_quickstart()
    assert plain.policy.depth is None and plain.policy.expert == both.policy.expert
    assert replace(both.policy, depth=None) == plain.policy
    with torch.device("meta"):
        assert set(DeepVisionVLA(both.policy).mixture.streams) == {"vlm", "depth", "expert"}


@pytest.mark.parametrize("recipe", [deepvision_metaworld, deepvision_quickstart])
def test_the_baseline_is_one_field_away(recipe):
    policy = replace(recipe().policy, expert=None)
    assert policy.guiding == range(0)
    assert policy.alone == policy.layers


def test_what_was_trained_before_learns_at_a_tenth_of_the_rate_of_what_is_new():
    """SPEC, section 3: 1e-5 for the language model and DINOv3, 1e-4 for new parts, with every weight in its group."""
    training, chosen = deepvision_libero().training, deepvision_libero().training.optimizer
    with torch.device("meta"):  # the names are the same at any size
        policy = DeepVisionVLA(replace(deepvision_quickstart().policy, vocab_size=30))
    optimizer = Optimizer(policy, training)
    rates = {
        id(parameter): chosen.lr * getattr(chosen.scale, group["name"])
        for group in optimizer.adam.param_groups
        for parameter in group["params"]
    }
    published = ("vision_tower.", "mixture.streams.vlm.", "mixture.streams.expert.own.")
    for name, parameter in policy.named_parameters():
        assert rates[id(parameter)] == pytest.approx(1e-5 if name.startswith(published) else 1e-4), name
    assert policy_recipe("qdepth_libero").training.optimizer.scale == GroupScales(), "the paper has one rate for all"
