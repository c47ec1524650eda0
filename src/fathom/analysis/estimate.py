"""Means over frames with their uncertainty."""

import numpy as np
from jaxtyping import Float, Int

from fathom.evaluation import Rate

DRAWS = 2000


def mean_over_frames(
    values: Float[np.ndarray, "frames numbers"], episodes: Int[np.ndarray, " frames"], confidence: float = 0.95
) -> list[Rate | None]:
    """The mean of each column with its percentile bootstrap interval (Efron 1979).

    What is drawn again is whole episodes, because the frames of one are alike; a single episode says nothing of others,
    and then it is frames. The draws follow from the number of episodes alone.

    Returns:
        ``None`` for a column that is NaN throughout.
    """
    groups = np.unique(episodes, return_inverse=True)[1]
    if groups.max() == 0:
        groups = np.arange(len(values))
    number = int(groups.max()) + 1
    sums = np.zeros((number, values.shape[1]))
    np.add.at(sums, groups, values)
    weights = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), DRAWS).astype(float)
    means = (weights @ sums) / (weights @ np.bincount(groups))[:, None]
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    middle = values.mean(0)
    return [_rate(*ends) for ends in zip(middle.tolist(), low.tolist(), high.tolist(), strict=True)]


def _rate(value: float, low: float, high: float) -> Rate | None:
    return None if np.isnan(value) else Rate(value, low, high)
