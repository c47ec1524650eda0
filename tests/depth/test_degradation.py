"""Each kind of noise does what it says, and nothing else."""

import numpy as np
import pytest

from fathom.depth.degradation import DepthNoise

NONE = DepthNoise(0, 0, 0)
TRUE = np.full((400, 32, 48), 1.5, np.float32)
TRUE[:, :3] = 0  # never measured


def made_worse(noise: DepthNoise, seed: int = 0) -> np.ndarray:
    return noise.apply(TRUE, np.random.default_rng(seed))


def test_without_strength_depth_stays_as_it_is() -> None:
    assert np.array_equal(made_worse(NONE), TRUE)
    unknown = np.where(TRUE > 0, TRUE, np.nan)
    assert np.array_equal(NONE.apply(unknown, np.random.default_rng(0)), TRUE)


def test_pixel_noise_is_a_share_of_the_depth_and_independent() -> None:
    relative = made_worse(DepthNoise(0.05, 0, 0))[:, 3:] / 1.5 - 1
    assert relative.std() == pytest.approx(0.05, rel=0.02) and abs(relative.mean()) < 1e-3
    neighbours = (relative[:, :, 1:] * relative[:, :, :-1]).mean() / relative.var()
    assert abs(neighbours) < 0.01


def test_drift_scales_whole_frames_and_walks_at_random() -> None:
    ratio = made_worse(DepthNoise(0, 0.03, 0))[:, 3:] / 1.5
    scale = ratio[:, 0, 0]
    assert scale[0] == 1 and ratio.std(axis=(1, 2)).max() < 1e-6
    steps = np.diff(np.log(scale))
    assert steps.std() == pytest.approx(0.03, rel=0.15) and abs(np.corrcoef(steps[1:], steps[:-1])[0, 1]) < 0.15
    few = TRUE[:, -1:, -1:]
    walks = [DepthNoise(0, 0.03, 0).apply(few, np.random.default_rng(seed)) for seed in range(60)]
    ends = [np.log(walk[-1, 0, 0] / 1.5) for walk in walks]
    assert np.std(ends) == pytest.approx(0.03 * 399**0.5, rel=0.3)


def test_holes_cover_their_share_in_patches_that_move() -> None:
    holes = made_worse(DepthNoise(0, 0, 0.2))[:, 3:] == 0
    assert 0.19 < holes.mean() < 0.27, "a disc more or less"
    assert (holes[1:] != holes[:-1]).mean() > 0.2
    inside = holes[:, :, 1:] & holes[:, :, :-1]
    assert inside.sum() / holes[:, :, 1:].sum() > 0.6, "patches, not dots"


def test_what_was_not_measured_stays_so_and_a_seed_decides_everything() -> None:
    noise = DepthNoise(0.5, 0.1, 0.1)
    worse = made_worse(noise)
    assert (worse[:, :3] == 0).all() and (worse >= 0).all() and worse.dtype == np.float32
    assert np.array_equal(worse, made_worse(noise)) and not np.array_equal(worse, made_worse(noise, seed=1))


@pytest.mark.parametrize("strengths", [(-0.1, 0, 0), (0, 1, 0), (0, 0, 1.0), (float("nan"), 0, 0)])
def test_strengths_are_shares(strengths: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        DepthNoise(*strengths)
