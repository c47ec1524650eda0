"""What is measured of an attention."""

import math

import pytest
import torch

from fathom.analysis import Looking, measures, sight_of

from .conftest import KINDS, policy_of


def test_the_measures_of_a_map_by_hand():
    # one frame, three layers of four tokens: a peak in the region, one outside, and a layer without the grid
    maps = torch.tensor([[[0.4, 0.1, 0.0, 0.0], [0.1, 0.1, 0.1, 0.5], [float("nan")] * 4]])
    found = measures(maps, torch.tensor([[True, False, True, False]]))
    first_entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2)) / math.log(4)
    second_entropy = -(3 / 8 * math.log(1 / 8) + 5 / 8 * math.log(5 / 8)) / math.log(4)
    expected = {
        "mass": (0.5, 0.8),
        "region": (0.4, 0.2),
        "share": (0.8, 0.25),
        "entropy": (first_entropy, second_entropy),
        "pointing": (1.0, 0.0),
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name][0, :2].tolist() == pytest.approx(values, abs=1e-6), name
        assert found[name][0, 2].isnan(), name


def test_a_map_of_nothing_points_nowhere():
    found = measures(torch.zeros(1, 1, 4), torch.tensor([[True, False, False, False]]))
    assert [found[name].item() for name in ("mass", "share", "entropy", "pointing")] == [0, 0, 0, 0]


def test_an_attention_that_is_known(on_paper):
    """All queries are ones and keys are the tokens, which never change: softmax of their sums over the root of 3."""
    image = torch.tensor([[[1.0, 0, 0], [0, 2.0, 0], [0, 0, 0], [-1.0, -1.0, 0]]])
    sight, chunk = on_paper(image, torch.zeros(1, 1, 3), query=1.0)
    looking = Looking(sight, torch.ones(1, 1, dtype=torch.bool))
    with sight.mixture.watched(looking):
        chunk(None, None)
    exponents = [math.exp(value / math.sqrt(3)) for value in (1, 2, 0, -2)]
    expected = [value / sum(exponents) for value in exponents]
    maps = looking.maps("action", sight.grids[0])
    assert maps.shape == (1, 3, 4)
    for layer in range(3):
        assert maps[0, layer].tolist() == pytest.approx(expected, abs=1e-6)
    found = measures(maps, torch.tensor([[False, True, False, False]]))
    assert found["mass"][0].tolist() == pytest.approx([1, 1, 1])
    assert found["share"][0].tolist() == pytest.approx([expected[1]] * 3)
    assert found["pointing"][0].tolist() == [1, 1, 1]
    assert not sight.reads("instruction", sight.grids[0])


def blank_queries(policy):
    """Every query of every stream that reads the picture is 0, so that all that may be read is read alike."""
    for name, parameter in policy.mixture.named_parameters():
        if name.endswith(("q_proj.weight", "q_proj.bias", "alignments.0.query.weight")) or ".query.weight" in name:
            torch.nn.init.zeros_(parameter)
    if policy.mixture.bias is not None:
        torch.nn.init.zeros_(policy.mixture.bias.values)


@pytest.mark.parametrize("kind", KINDS)
def test_an_attention_to_all_alike_in_every_kind_of_policy(kind, make_observation):
    policy = policy_of(kind)
    blank_queries(policy)
    sight, inputs = sight_of(policy), policy.prepare(make_observation())
    looking = Looking(sight, inputs.text_valid)
    with torch.no_grad(), sight.mixture.watched(looking):
        sight.chunk(inputs, torch.zeros(2, *policy.noise_shape))
    words = inputs.text_valid.sum(1)
    depth = 64 if kind == "qdepth" else 16 if kind == "both" else 0
    image = 64 if kind in ("qdepth", "pi0") else 16
    proprio = int(kind in ("qdepth", "pi0"))
    rest = image + words + depth + proprio + 4
    grid = {grid.name: grid for grid in sight.grids}
    alone = looking.maps("action", grid["image"])[:, 0].sum(-1)
    torch.testing.assert_close(alone, image / rest)
    if kind in ("deepvision", "both"):
        kept, prefix = 20, 3
        joint = rest + kept + prefix
        maps = looking.maps("action", grid["expert"])
        assert maps[:, :2].isnan().all()  # two layers run before the vision expert joins
        torch.testing.assert_close(maps[:, 2:].sum(-1), (kept / joint)[:, None].expand(-1, 2))
        assert ((maps[:, 2:] > 0).sum(-1) == kept).all()  # what was pruned is not read
        torch.testing.assert_close(looking.maps("action", grid["image"])[:, 3].sum(-1), image / joint)
    if kind in ("qdepth", "pi0"):  # image and text read each other fully
        torch.testing.assert_close(looking.maps("instruction", grid["image"])[:, 1].sum(-1), image / (image + words))
    if kind == "oft":  # the prompt is causal: the n-th word reads the image and n words
        means = [sum(16 / (16 + n) for n in range(1, count + 1)) / count for count in words.tolist()]
        torch.testing.assert_close(looking.maps("instruction", grid["image"])[:, 0].sum(-1), torch.tensor(means))
    assert sight.reads("action", grid["image"])
    assert "depth" not in grid or not sight.reads("instruction", grid["depth"])
