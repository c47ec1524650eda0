"""Pictures changed at random: depth follows the crop and nothing else, and how a batch is divided does not matter."""

from dataclasses import replace

import pytest
import torch

from fathom.data.batch import Batch
from fathom.data.draws import Draws
from fathom.training.augment import Augmentation, augment

SIDE, DRAWS = 32, Draws(3, 7)
NOTHING = Augmentation(crop=1, brightness=0, contrast=0, saturation=0, hue=0)


def ramps(count: int = 4) -> Batch:
    """Pictures and depth whose values say where they lie: red and depth grow to the right, green downwards."""
    right = torch.linspace(0, 1, SIDE).expand(SIDE, SIDE)
    picture = torch.stack([right, right.T, torch.full_like(right, 0.25)]).expand(count, 3, SIDE, SIDE)
    return Batch(
        images={"main": picture.clone(), "wrist": picture.clone(), "side": picture.clone()},
        state=torch.zeros(count, 2),
        instruction=["go"] * count,
        actions=torch.zeros(count, 3, 2),
        action_is_pad=torch.zeros(count, 3, dtype=torch.bool),
        depth=(1 + right).expand(count, 1, SIDE, SIDE).clone(),
        future_depth=(1 + right.T).expand(count, 1, SIDE, SIDE).clone(),
        index=torch.arange(40, 40 + count),
    )


def test_depth_has_the_window_of_the_main_picture():
    batch = ramps()
    seen = augment(batch, replace(NOTHING, crop=0.5), DRAWS)
    main = seen.images["main"]
    assert seen.depth is not None and seen.future_depth is not None
    # The picture is interpolated, depth is the nearest pixel: they differ by half a pixel's step at most.
    step = 1 / (SIDE - 1)
    assert ((seen.depth[:, 0] - 1) - main[:, 0]).abs().max() <= 0.51 * step
    assert ((seen.future_depth[:, 0] - 1) - main[:, 1]).abs().max() <= 0.51 * step
    shares = (main[:, 0, 0, -1] - main[:, 0, 0, 0]) * (main[:, 1, -1, 0] - main[:, 1, 0, 0])
    assert ((shares > 0.45) & (shares < 1)).all() and len(set(shares.tolist())) == 4, "each sample has its own window"
    assert not torch.equal(seen.images["side"], main), "each camera too"
    assert torch.equal(seen.images["wrist"], batch.images["wrist"]), "but a wrist camera is not cropped"
    assert main[:, 2] == pytest.approx(0.25), "colours stay"


def test_unknown_depth_stays_unknown_and_no_value_is_made_up():
    batch = ramps()
    assert batch.depth is not None
    batch.depth[:, :, ::2] = 0.0
    seen = augment(batch, replace(NOTHING, crop=0.5), DRAWS)
    assert seen.depth is not None
    assert set(seen.depth.unique().tolist()) <= set(batch.depth.unique().tolist()) and (seen.depth == 0).any()


def test_colours_change_and_never_touch_depth():
    batch = ramps()
    for name in ("brightness", "contrast", "saturation", "hue"):
        seen = augment(batch, replace(NOTHING, **{name: 0.3}), DRAWS)
        assert seen.depth is batch.depth and seen.future_depth is batch.future_depth
        changed = seen.images["main"]
        assert not torch.allclose(changed, batch.images["main"], atol=1e-3), name
        assert changed.min() >= 0 and changed.max() <= 1


def test_saturation_and_hue_leave_grey_grey_and_keep_brightness():
    grey = ramps()
    grey.images["main"][:] = grey.images["main"][:, :1]
    seen = augment(grey, replace(NOTHING, saturation=0.5, hue=0.3), DRAWS).images["main"]
    torch.testing.assert_close(seen, grey.images["main"], atol=2e-3, rtol=0)  # YIQ's printed coefficients are rounded


def test_no_strength_is_identity():
    batch = ramps()
    seen = augment(batch, NOTHING, DRAWS)
    assert all(torch.equal(seen.images[name], batch.images[name]) for name in batch.images)
    assert seen.depth is batch.depth


def test_bytes_stay_bytes_where_only_the_crop_changes():
    batch = replace(ramps(), images={"main": (255 * ramps().images["main"]).to(torch.uint8)})
    seen = augment(batch, replace(NOTHING, crop=0.5), DRAWS).images["main"]
    exact = augment(replace(batch, images={"main": batch.images["main"].float()}), replace(NOTHING, crop=0.5), DRAWS)
    assert seen.dtype == torch.uint8 and (seen.float() - exact.images["main"]).abs().max() <= 0.5


def test_the_same_whatever_the_division():
    batch, how = ramps(), Augmentation()
    whole = augment(batch, how, DRAWS)
    parts = [augment(part, how, DRAWS) for part in batch.split(1)]
    for name, picture in whole.images.items():
        torch.testing.assert_close(torch.cat([part.images[name] for part in parts]), picture, atol=1e-6, rtol=0)
    assert torch.equal(torch.cat([part.depth for part in parts]), whole.depth)
    other = augment(batch, how, Draws(3, 8))
    assert not torch.equal(other.images["main"], whole.images["main"]), "the next step draws anew"


@pytest.mark.parametrize("wrong", [{"crop": 0.0}, {"crop": 1.5}, {"hue": -0.1}, {"contrast": 1.0}])
def test_what_cannot_be_is_told(wrong):
    with pytest.raises(ValueError, match=rf"augmentation\.{next(iter(wrong))}"):
        Augmentation(**wrong)
