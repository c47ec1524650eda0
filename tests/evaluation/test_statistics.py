"""Intervals against scipy and against published numbers."""

from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, t, ttest_ind

from fathom.evaluation.statistics import SeedSpread, difference, matched_difference, paired_difference, wilson


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


def test_matched_difference_by_the_published_example() -> None:
    assert matched_difference(36, 12, 2, 0) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)  # Newcombe 1998, paired
    assert matched_difference(36, 2, 12, 0) == pytest.approx((-0.2, -0.3404, -0.0569), abs=5e-5)
    alike = matched_difference(0, 0, 0, 50)
    assert alike.value == 0 and alike.low == -alike.high < 0, "no pair that differs is no proof"
    with pytest.raises(ValueError, match="no pair"):
        matched_difference(0, 0, 0, 0)


def outcomes(*rows: str) -> np.ndarray:
    return np.array([[letter == "x" for letter in row] for row in rows])


def test_the_paired_difference_by_hand() -> None:
    """Two seeds, one task, four layouts; every number of the analysis of variance is worked out here."""
    a, b = outcomes("xxx.", "xx.."), outcomes("x...", "....")
    rate = paired_difference(a, b, ["reach"] * 4)
    assert rate.value == pytest.approx(5 / 8 - 1 / 8)
    between_a = 4 * ((3 / 4 - 5 / 8) ** 2 + (2 / 4 - 5 / 8) ** 2)  # of one outcome, one degree of freedom
    between_b = 4 * ((1 / 4 - 1 / 8) ** 2 + (0 - 1 / 8) ** 2)
    # a - b is (0, 1, 1, 0) and (1, 1, 0, 0): layouts' means 1/2, 1, 1/2, 0, seeds' means and the whole 1/2
    layouts = 2 * (0 + 1 / 4 + 0 + 1 / 4) / 3
    residual = 4 * (1 / 2) ** 2 / 3
    assert between_a + between_b == 0.25 <= residual, "seeds differ by less than chance would make them"
    assert layouts == residual == pytest.approx(1 / 3)
    half = t.ppf(0.975, 3) * (residual / 8) ** 0.5
    score = matched_difference(1, 4, 0, 3)
    assert rate.low == pytest.approx(max(-1, min(score.low, 0.5 - half)))
    assert rate.high == pytest.approx(min(1, max(score.high, 0.5 + half)))


def test_seeds_that_decide_widen_the_interval() -> None:
    """Each policy solves all or nothing, by its seed: three numbers a side, and Student's t test of them."""
    a, b = outcomes("x" * 40, "x" * 40, "." * 40), outcomes("x" * 40, "." * 40, "." * 40)
    tasks = ["reach"] * 20 + ["push"] * 20
    rate = paired_difference(a, b, tasks)
    student = ttest_ind([1, 1, 0], [1, 0, 0]).confidence_interval(0.95)
    assert rate == pytest.approx((1 / 3, max(-1, student.low), min(1, student.high)), abs=1e-6)
    assert rate.low < 0, "120 episodes against 120 are no proof where three trainings disagree"


def test_the_spread_of_seeds_is_that_of_all_policies_together() -> None:
    """Two policies whose variances are 0 and 1/8 of a rate: 8 episodes, and the binomial variance at their rates."""
    quiet, loud = outcomes("xxxx....", "xxxx....", "xxxx...."), outcomes("xxxxxx..", "xx......")
    spread = SeedSpread.of([quiet, loud, outcomes("xxxxxxxx", "xxxxxxxx"), outcomes("x.......")])
    assert spread.degrees == 2 + 1, "always and once say nothing"
    assert spread.dispersion == pytest.approx((2 * 0 + 1 * 8 * (1 / 8)) / (2 * 0.25 + 1 * 0.25))
    assert SeedSpread.of([outcomes("x...")]) == SeedSpread(1.0, 0)
    random = np.random.default_rng(0)
    chance = SeedSpread.of([random.random((3, 50)) < rate for rate in np.linspace(0.2, 0.9, 60)])
    assert chance.degrees == 120 and chance.dispersion == pytest.approx(1, abs=0.3)
    more = paired_difference(quiet, quiet, ["reach"] * 8, spread)
    half = t.ppf(0.975, 3) * (spread.dispersion * 0.5 / 24) ** 0.5
    assert more == pytest.approx((0, -half, half)), "no layout makes a difference here, the seeds of others do"


def test_one_seed_has_the_interval_of_its_pairs() -> None:
    assert paired_difference(outcomes("xx.."), outcomes("x..."), ["reach"] * 4) == matched_difference(1, 1, 0, 2)


def test_tasks_are_no_draw() -> None:
    """One task is always won and one always lost: that the tasks differ must not widen the interval."""
    a, b = outcomes(*["x" * 20 + "." * 20] * 3), outcomes(*["." * 40] * 3)
    apart = paired_difference(a, b, ["reach"] * 20 + ["push"] * 20)
    pooled = paired_difference(a, b, ["reach"] * 40)
    assert apart == matched_difference(0, 60, 0, 60) and pooled.high - pooled.low > 1.5 * (apart.high - apart.low)


@pytest.mark.parametrize("spread", [0.0, 0.6])
def test_the_interval_holds_the_truth_as_often_as_it_says(spread: float) -> None:
    """No difference in truth; seeds and layouts are drawn anew 200 times."""
    random = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        layout = random.normal(size=60)
        a, b = (
            random.random((3, 60)) < 1 / (1 + np.exp(-layout - spread * random.normal(size=(3, 1)))) for _ in range(2)
        )
        rate = paired_difference(a, b, [str(i // 20) for i in range(60)])
        held += rate.low <= 0 <= rate.high
    assert held >= 186, "93 % of 200"


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ValueError, match="outcomes of 3 episodes"):
        paired_difference(outcomes("xx"), outcomes("xx"), ["reach"] * 3)
    with pytest.raises(ValueError, match="against"):
        paired_difference(outcomes("xx"), outcomes("xx", "xx"), ["reach"] * 2)
