"""Intervals against scipy and against published numbers."""

from math import isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from fathom.evaluation.statistics import difference, wilson


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(counts: tuple[int, int]) -> None:
    expected = binomtest(*counts).proportion_ci(0.95, method="wilson")
    rate = wilson(*counts)
    assert rate.value == pytest.approx(counts[0] / counts[1])
    assert (rate.low, rate.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1


def test_wilson_by_hand() -> None:
    assert wilson(81, 263)[1:] == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, method 3
    assert wilson(0, 20) == pytest.approx((0.0, 0.0, 0.1611), abs=5e-5)
    assert isnan(wilson(0, 0).value) and wilson(0, 0)[1:] == (0, 1)
    with pytest.raises(ValueError, match="5 successes of 4"):
        wilson(5, 4)


def test_difference_by_the_published_example() -> None:
    assert difference(56, 70, 48, 80) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)  # Newcombe 1998, method 10
    back = difference(48, 80, 56, 70)
    assert back == pytest.approx((-0.2, -0.3339, -0.0524), abs=5e-5)
