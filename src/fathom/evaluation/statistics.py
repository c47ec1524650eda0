"""Success rates are quoted with their uncertainty."""

from math import sqrt
from statistics import NormalDist
from typing import NamedTuple


class Rate(NamedTuple):
    """An estimate with the ends of its confidence interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> Rate:
    """A success rate with Wilson's score interval (Wilson 1927): right at 0 and 1 and for small ``n``.

    Without any episode nothing is known: the rate is NaN, the interval 0 to 1.

    Raises:
        ValueError: not 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} episodes")
    if n == 0:
        return Rate(float("nan"), 0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / n
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    # exactly 0 and 1 where they must be, whatever rounding does
    return Rate(rate, 0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def difference(successes_a: int, n_a: int, successes_b: int, n_b: int, confidence: float = 0.95) -> Rate:
    """Rate of a minus rate of b for independent episodes, with Newcombe's hybrid score interval (1998, method 10)."""
    a, b = wilson(successes_a, n_a, confidence), wilson(successes_b, n_b, confidence)
    value = a.value - b.value
    low = value - sqrt((a.value - a.low) ** 2 + (b.high - b.value) ** 2)
    high = value + sqrt((a.high - a.value) ** 2 + (b.value - b.low) ** 2)
    return Rate(value, low, high)
