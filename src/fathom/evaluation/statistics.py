"""Success rates are quoted with their uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float


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


@dataclass(frozen=True)
class SeedSpread:
    """How far the rates of trainings that differ in their seed alone lie apart.

    Attributes:
        dispersion: by how much the variance of a training's rate exceeds that of as many independent episodes,
            ``rate (1 - rate) / n``; 1 where seeds decide nothing.
        degrees: of freedom that it was estimated with; 0 where no policy was trained twice, which tells nothing.
    """

    dispersion: float
    degrees: int

    @classmethod
    def of(cls, policies: Sequence[Bool[np.ndarray, "seeds episodes"]]) -> Self:
        """Estimated from several policies together, because a few seeds of one say little.

        Policies that always or never succeed say nothing.
        """
        found = excess = 0.0
        degrees = 0
        for outcomes in policies:
            rate, free = float(outcomes.mean()), len(outcomes) - 1
            if free and 0 < rate < 1:
                found += free * outcomes.shape[1] * float(np.var(outcomes.mean(1), ddof=1))
                excess += free * rate * (1 - rate)
                degrees += free
        return cls(found / excess if degrees else 1.0, degrees)


def paired_difference(
    a: Bool[np.ndarray, "seeds episodes"],
    b: Bool[np.ndarray, "seeds episodes"],
    tasks: Sequence[str],
    spread: SeedSpread | None = None,
    confidence: float = 0.95,
) -> Rate:
    """Success of a minus that of b, both trained with the same seeds and tried in the same episodes.

    Another seed would give other policies and another draw of layouts other episodes, so both are random effects that
    cross. The variance of the mean difference is that between a's and between b's seeds (what a seed decides for one
    says nothing of the other), plus that between the layouts of a task, which both share. Student's t has the degrees
    of freedom of Satterthwaite (1946). Tasks are the benchmark's own and not a draw. The interval is never narrower
    than Newcombe's for matched pairs: where hardly any pair differs, variances say nothing. A single seed cannot show
    how seeds differ: then the interval is Newcombe's alone.

    Args:
        a, b: whether each episode succeeded; a column is one task on one layout.
        tasks: of the columns.
        spread: between seeds, estimated from more policies than these two; by default from these.

    Raises:
        ValueError: the shapes differ, or there is nothing to compare.
    """
    if a.shape != b.shape or a.ndim != 2 or a.size == 0 or a.shape[1] != len(tasks):
        raise ValueError(f"{a.shape} against {b.shape} outcomes of {len(tasks)} episodes")
    score = matched_difference(
        int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum()), confidence
    )
    half = _half_width(a, b, tasks, spread or SeedSpread.of([a, b]), confidence) if len(a) > 1 else 0.0
    return Rate(
        score.value, max(-1.0, min(score.low, score.value - half)), min(1.0, max(score.high, score.value + half))
    )


def paired_mean(differences: Sequence[float], confidence: float = 0.95) -> Rate:
    """The mean of differences that pairs of trainings show, with Student's interval: another seed is another draw.

    Raises:
        ValueError: fewer than two.
    """
    n = len(differences)
    if n < 2:
        raise ValueError(f"{n} differences tell nothing of how far they lie apart")
    value = float(np.mean(differences))
    half = _t_quantile(confidence, n - 1) * float(np.std(differences, ddof=1)) / sqrt(n)
    return Rate(value, value - half, value + half)


def matched_difference(both: int, only_a: int, only_b: int, neither: int, confidence: float = 0.95) -> Rate:
    """Rate of a minus rate of b over matched pairs, with Newcombe's score interval (1998, paired, method 10).

    Raises:
        ValueError: there is no pair.
    """
    n = both + only_a + only_b + neither
    if n == 0:
        raise ValueError("no pair to compare")
    a, b = wilson(both + only_a, n, confidence), wilson(both + only_b, n, confidence)
    value = (only_a - only_b) / n
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    agreement = float(both * neither - only_a * only_b)
    agreement = max(agreement - n / 2, 0.0) if agreement > 0 else agreement  # the continuity correction
    phi = agreement / sqrt(margins) if margins else 0.0
    below, above = a.value - a.low, b.high - b.value
    low = value - sqrt(below**2 - 2 * phi * below * above + above**2)
    below, above = b.value - b.low, a.high - a.value
    high = value + sqrt(below**2 - 2 * phi * below * above + above**2)
    return Rate(value, low, high)


def _half_width(
    a: Bool[np.ndarray, "seeds episodes"],
    b: Bool[np.ndarray, "seeds episodes"],
    tasks: Sequence[str],
    spread: SeedSpread,
    confidence: float,
) -> float:
    """Half of the interval of the mean of ``a - b``, with seeds and the layouts of each task as random effects.

    Mean squares are variances of a single outcome; that of the mean is ``size`` times smaller.
    """
    layouts, residual, free = _mean_squares(a.astype(float) - b, tasks)
    between = spread.dispersion * sum(rate * (1 - rate) for rate in (float(a.mean()), float(b.mean())))
    parts = [(between, spread.degrees)]
    if between <= residual:  # less than chance makes them differ: the seeds decide nothing
        parts = [(residual, free * (len(a) - 1))]
    if layouts > residual:
        parts += [(layouts - residual, free)]
    variance = sum(square for square, _ in parts)
    if variance == 0:
        return 0.0
    degrees = variance**2 / sum(square**2 / number for square, number in parts)
    return _t_quantile(confidence, degrees) * sqrt(variance / a.size)


def _mean_squares(difference: Float[np.ndarray, "seeds episodes"], tasks: Sequence[str]) -> tuple[float, float, int]:
    """The mean square between the layouts of a task, that of what neither layout nor seed explains, and the degrees
    of freedom of the former; zeros where each task has a single layout."""
    between, rest, free = 0.0, 0.0, 0
    for name in dict.fromkeys(tasks):
        own = difference[:, [task == name for task in tasks]]
        by_layout, by_seed = own.mean(0) - own.mean(), own.mean(1, keepdims=True)
        between += len(own) * float((by_layout**2).sum())
        rest += float(((own - by_seed - by_layout) ** 2).sum())
        free += own.shape[1] - 1
    return (between / free, rest / (free * (len(difference) - 1)), free) if free else (0.0, 0.0, 0)


def _t_quantile(confidence: float, degrees: float) -> float:
    """The value that Student's t exceeds in size with probability ``1 - confidence``.

    With ``t = sqrt(degrees) tan(angle)`` its density is that of ``cos(angle) ** (degrees - 1)``.
    """
    angle = np.linspace(0, np.pi / 2, 20_001)
    density = np.cos(angle) ** (degrees - 1)
    share = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return sqrt(degrees) * float(np.tan(np.interp(confidence, share / share[-1], angle)))
