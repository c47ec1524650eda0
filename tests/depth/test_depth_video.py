"""What a depth video is stored as."""

import numpy as np
import pytest

from fathom.depth.depth_map import LOWEST, DepthVideo
from fathom.errors import UserError


def relative(values: np.ndarray, valid: np.ndarray | None = None) -> DepthVideo:
    valid = np.ones(values.shape, bool) if valid is None else valid
    return DepthVideo(values.astype(np.float32), "relative_inverse", valid, {"estimator": "test"})


def test_relative_depth_is_normalised_by_its_episode() -> None:
    """By hand: the 2nd and 98th percentile of 0 … 100 are 2 and 98; beyond them it is clipped."""
    stored = relative(np.arange(101.0).reshape(1, 1, 101)).stored()
    expected = ((np.arange(101) - 2) / 96).clip(LOWEST, 1)
    np.testing.assert_allclose(stored.values[0, 0], expected, atol=1e-6)
    assert stored.provenance == {"estimator": "test", "range": [2.0, 98.0]}
    # one scale for all frames: a frame that is farther as a whole stays so
    frames = np.stack([np.arange(101.0), np.arange(101.0) / 2]).reshape(2, 1, 101)
    twice = relative(frames).stored().values
    assert twice[1].max() < 0.6 * twice[0].max()


def test_what_is_not_valid_does_not_count_and_becomes_0() -> None:
    values = np.arange(101.0).reshape(1, 1, 101)
    with_holes = np.concatenate([values, np.full((1, 1, 5), 1e9)], 2)
    valid = with_holes < 1e9
    stored = relative(with_holes, valid).stored()
    assert (stored.values[~valid] == 0).all()
    assert np.array_equal(stored.values[..., :101], relative(values).stored().values)
    assert (stored.values[valid] > 0).all()


def test_metres_stay_metres() -> None:
    values, valid = np.array([[[0.5, np.nan, 2.0]]], np.float32), np.array([[[True, False, True]]])
    assert DepthVideo(values, "metric", valid).stored().values.tolist() == [[[0.5, 0.0, 2.0]]]


def test_depth_that_is_good_for_nothing() -> None:
    with pytest.raises(UserError, match="no pixel of the episode has a valid depth"):
        relative(np.ones((2, 3, 4)), np.zeros((2, 3, 4), bool)).stored()
    with pytest.raises(UserError, match=r"constant \(3 everywhere\)"):
        relative(np.full((2, 3, 4), 3.0)).stored()
    with pytest.raises(UserError, match="constant"):
        DepthVideo(np.full((2, 3, 4), 1.5, np.float32), "metric", np.ones((2, 3, 4), bool)).stored()
