"""Means over frames, with intervals over episodes."""

import numpy as np
import pytest

from fathom.analysis.estimate import mean_over_frames


def test_the_interval_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(0)
    values = rng.normal(2, 3, (400, 1))
    (rate,) = mean_over_frames(values, np.arange(400))
    half = 1.96 * values.std(ddof=1) / 20
    assert rate.value == pytest.approx(values.mean())
    assert rate.high - rate.value == pytest.approx(half, rel=0.1)
    assert rate.value - rate.low == pytest.approx(half, rel=0.1)


def test_more_frames_of_the_same_episodes_tell_nothing_new():
    rng = np.random.default_rng(0)
    values, episodes = rng.normal(size=(50, 1)), np.arange(50)
    (once,) = mean_over_frames(values, episodes)
    (often,) = mean_over_frames(np.repeat(values, 8, 0), np.repeat(episodes, 8))
    assert often == pytest.approx(once)


def test_a_mean_of_frames_not_of_episodes():
    (rate,) = mean_over_frames(np.array([[0.0], [0.0], [0.0], [4.0]]), np.array([3, 3, 3, 9]))
    assert rate.value == 1.0 and rate.low == 0.0 and rate.high == 4.0


def test_a_single_episode_and_what_is_no_number():
    alone, nothing = mean_over_frames(np.array([[0.0, np.nan], [1.0, np.nan]]), np.array([5, 5]))
    assert (alone.value, alone.low, alone.high) == (0.5, 0.0, 1.0)
    assert nothing is None
