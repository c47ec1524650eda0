"""Taking tokens away."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from fathom.analysis import METHODS, Removal, sight_of
from fathom.analysis.removal import draw_tokens
from fathom.mixture import Visibility

from .conftest import KINDS, LAYERS, policy_of

GONE = torch.tensor([[True, False, False, True], [False, False, True, False]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", range(LAYERS))
def test_what_is_left_is_what_a_calculation_says(method, layer, on_paper):
    """Up to the layer the mean of all four tokens is added, from it on that of what is left of them."""
    torch.manual_seed(0)
    image, start = torch.randn(2, 4, 3), torch.randn(2, 1, 3)
    sight, run = on_paper(image, start)
    with sight.mixture.watched(Removal(sight, {"image": GONE}, layer, method)):
        chunk = run(None, None)
    kept = (image * ~GONE[..., None]).sum(1, keepdim=True)
    counts = (~GONE).sum(1)[:, None, None]
    rest = kept / 4 if method == "zero" else kept / counts
    expected = start + layer * image.mean(1, keepdim=True) + (LAYERS - layer) * rest
    torch.testing.assert_close(chunk, expected)


def test_knocking_out_the_image_is_a_table_in_which_nobody_reads_it(make_observation):
    policy = policy_of("pi0")
    sight, inputs = sight_of(policy), policy.prepare(make_observation())
    noise = torch.randn(2, *policy.noise_shape)
    everything = {"image": torch.ones(2, 64, dtype=torch.bool)}
    with torch.no_grad():
        with sight.mixture.watched(Removal(sight, everything, 0, "knockout")):
            chunk = sight.chunk(inputs, noise)
        reads = {"image": "", "text": "text", "proprio": "text proprio", "action": "text proprio action"}
        policy.mixture.visibility = Visibility(reads)
        hidden = sight.chunk(inputs, noise)
    torch.testing.assert_close(chunk, hidden, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_without_any_token_of_it_the_picture_decides_nothing(kind, method, make_observation):
    """Whatever stream shows it, the image's, the depth expert's or the vision expert's, which is pruned by what is read
    of the image, and whatever is added to the tokens on their way."""
    policy = policy_of(kind)
    sight = sight_of(policy)
    noise = torch.randn(2, *policy.noise_shape)
    everything = {grid.name: torch.ones(2, grid.side**2, dtype=torch.bool) for grid in sight.grids}
    seen, removed, late = [], [], []
    with torch.no_grad():
        for seed in (0, 1):
            inputs = policy.prepare(make_observation(seed))
            seen.append(sight.chunk(inputs, noise))
            with sight.mixture.watched(Removal(sight, everything, 0, method)):
                removed.append(sight.chunk(inputs, noise))
            with sight.mixture.watched(Removal(sight, everything, 1, method)):
                late.append(sight.chunk(inputs, noise))
    torch.testing.assert_close(removed[0], removed[1], atol=1e-5, rtol=0)
    assert (seen[0] - seen[1]).abs().max() > 1e-4
    assert (late[0] - late[1]).abs().max() > 1e-5  # what the first layer read stays read


def test_tokens_of_one_camera_are_not_those_of_another(make_observation):
    policy = policy_of("pi0", cameras=("main", "wrist"))
    sight = sight_of(policy)
    other = [
        replace(make_observation(), images={"main": make_observation().images["main"], "wrist": wrist})
        for wrist in (make_observation(1).images["main"], make_observation(2).images["main"])
    ]
    noise = torch.randn(2, *policy.noise_shape)
    chunks = []
    for observation in other:
        with (
            torch.no_grad(),
            sight.mixture.watched(Removal(sight, {"image": torch.ones(2, 64, dtype=torch.bool)}, 0, "knockout")),
        ):
            chunks.append(sight.chunk(policy.prepare(observation), noise))
    assert (chunks[0] - chunks[1]).abs().max() > 1e-5  # the wrist's picture still counts


def test_the_control_has_the_size_of_what_is_removed():
    torch.manual_seed(0)
    region = torch.zeros(3, 64, dtype=torch.bool)
    for row, count in enumerate((1, 10, 32)):
        region[row, torch.randperm(64)[:count]] = True
    rates = (0.1, 0.25, 0.5, 1.0)
    drawn = {key: tokens["image"] for key, tokens in draw_tokens({"image": region}, rates, seeds=[1, 2, 3]).items()}
    for rate in rates:
        inside, outside = drawn["region", rate], drawn["control", rate]
        assert inside.sum(1).tolist() == [max(1, round(rate * count)) for count in (1, 10, 32)]
        assert torch.equal(inside.sum(1), outside.sum(1))
        assert not (inside & ~region).any() and not (outside & region).any()
    for where in ("region", "control"):
        for less, more in pairwise(rates):
            assert not (drawn[where, less] & ~drawn[where, more]).any()
    again = draw_tokens({"image": region[1:]}, rates, seeds=[2, 3])  # a row's draw is its own
    assert torch.equal(again["control", 0.5]["image"], drawn["control", 0.5][1:])
    other = draw_tokens({"image": region}, rates, seeds=[7, 8, 9])
    assert not torch.equal(other["control", 0.5]["image"], drawn["control", 0.5])


@pytest.mark.parametrize("where", ["region", "control"])
@pytest.mark.parametrize("sides", [(4, 8, 4), (8, 4, 12)])
def test_no_grid_shows_what_another_has_lost(sides, where):
    """Else the policy would still see the place, and losing it would seem to matter less."""
    place = torch.zeros(6, 1, 4, 4)
    place[:, :, 1, 1:] = 1
    regions = {
        name: torch.nn.functional.interpolate(place, (side, side)).flatten(1).bool()
        for name, side in zip(("image", "expert", "depth"), sides, strict=True)
    }
    drawn = draw_tokens(regions, (0.25, 2 / 3, 1.0), seeds=range(6))
    for rate, count in ((2 / 3, 2), (1.0, 3)):
        squares = {
            name: tokens.unflatten(1, (1, side, side)).float()
            for (name, tokens), side in zip(drawn[where, rate].items(), sides, strict=True)
        }
        same = [torch.nn.functional.interpolate(square, (24, 24)).bool() for square in squares.values()]
        assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])
        assert same[0].flatten(1).sum(1).tolist() == [count * 36] * 6
    several = {tuple(row) for row in drawn["control", 1.0]["image"].tolist()}
    assert len(several) == 6  # not always the same places


def test_grids_that_do_not_fit_into_each_other_lose_nearly_the_same():
    fine, coarse = torch.zeros(64, 1, 16, 16), torch.zeros(64, 1, 7, 7)
    fine[..., 4:9, 4:9], coarse[..., 2:4, 2:4] = 1, 1
    regions = {"expert": fine.flatten(1).bool(), "image": coarse.flatten(1).bool()}
    control = draw_tokens(regions, (1.0,), seeds=range(64))["control", 1.0]
    squares = control["image"].unflatten(1, (1, 7, 7)).float()
    lost = torch.nn.functional.interpolate(squares, (16, 16), mode="nearest-exact").flatten(1) > 0
    overlap = (lost & control["expert"]).sum() / control["expert"].sum()
    assert overlap > 0.7  # by chance it would be a tenth


def test_a_region_that_leaves_no_control():
    with pytest.raises(ValueError, match="more than half"):
        draw_tokens({"image": torch.tensor([[True, True, True, False]])}, (1.0,), [0])
