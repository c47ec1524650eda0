"""Grad-CAM."""

import pytest
import torch

from fathom.analysis import GradCam, sight_of

from .conftest import KINDS, LAYERS, policy_of


def test_of_a_linear_policy_it_is_its_closed_form(on_paper):
    """The chunk is ``a + 3 mean(h)``, the score half its square: before layer l the gradient of each of the four tokens
    is ``(3 - l) / 4`` times the chunk."""
    torch.manual_seed(0)
    image, start = torch.randn(2, 4, 3), torch.randn(2, 1, 3)
    sight, run = on_paper(image, start)
    cam = GradCam(sight)
    with sight.mixture.watched(cam):
        chunk = run(None, None)
    torch.testing.assert_close(chunk, start + LAYERS * image.mean(1, keepdim=True))
    found = cam.maps(chunk)["image"]
    for layer in range(LAYERS):
        weights = (LAYERS - layer) / 4 * chunk
        torch.testing.assert_close(found[:, layer], (weights * image).sum(-1).clamp(min=0))
    assert found.max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_policy_has_maps_and_is_left_as_it_was(kind, make_observation):
    policy = policy_of(kind).requires_grad_(False)
    sight, inputs = sight_of(policy), policy.prepare(make_observation())
    noise = torch.randn(2, *policy.noise_shape)
    before = sight.chunk(inputs, noise)
    cam = GradCam(sight)
    with sight.mixture.watched(cam):
        watched = sight.chunk(inputs, noise)
    torch.testing.assert_close(watched, before)
    maps = cam.maps(watched)
    assert set(maps) == {grid.name for grid in sight.grids}
    for grid in sight.grids:
        own = maps[grid.name]
        assert own.shape == (2, len(sight.place_of), grid.side**2)
        joins = [sight.takes_part(grid.block, place) for place in sight.place_of.values()]
        assert own.isnan().any(-1).logical_not().all(0).tolist() == joins
        assert own.nan_to_num().min() == 0 and own.nan_to_num().max() > 0
        assert own[:, joins].isfinite().all()
    assert not sight.mixture.watchers and all(p.grad is None for p in policy.parameters())
