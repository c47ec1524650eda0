"""Statistics of a dataset, computed once while it is written and stored in ``meta/stats.json`` as LeRobot has them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fathom.data.features import MILLIMETRES_PER_METRE, Feature

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
FeatureStats = dict[str, NDArray[Any]]


def vector_stats(values: NDArray[Any]) -> FeatureStats:
    """Statistics of each component of ``values`` (frames,) or (frames, components); quantiles are exact."""
    values = values.reshape(len(values), -1).astype(np.float64)
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "count": np.array([len(values)]),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def count_levels(pictures: NDArray[np.integer[Any]], feature: Feature) -> NDArray[np.int64]:
    """How often each level occurs, (channels, levels), over pictures (frames, H, W[, channels]) of integers.

    Levels are what is stored: 0…255, depth codes or labels. Counts of episodes add up to those of a dataset.
    """
    channels = feature.picture_shape[2]
    flat = pictures.reshape(-1, channels)
    levels = {"rgb": 256, "depth": 4096}.get(feature.kind, 65536)
    return np.stack([np.bincount(flat[:, channel], minlength=levels) for channel in range(channels)])


def picture_stats(counts: NDArray[np.int64], feature: Feature, frames: int) -> FeatureStats:
    """Statistics of each channel, (channels, 1, 1): colour and labels / 255, depth in millimetres, as lerobot."""
    if feature.kind == "depth":
        levels = feature.depth_codec.table.astype(np.float64) * MILLIMETRES_PER_METRE
    else:
        levels = np.arange(counts.shape[1]) / 255.0
    channels = [_weighted_stats(levels, channel) for channel in counts]
    stats = {name: np.array([channel[name] for channel in channels]).reshape(-1, 1, 1) for name in channels[0]}
    return {**stats, "count": np.array([frames])}


def _weighted_stats(levels: NDArray[np.float64], counts: NDArray[np.int64]) -> dict[str, float]:
    present = np.flatnonzero(counts)
    values, weights = levels[present], counts[present] / counts.sum()
    mean = float(values @ weights)
    cumulative = np.cumsum(weights)
    last = len(values) - 1
    return {
        "min": float(values[0]),
        "max": float(values[-1]),
        "mean": mean,
        "std": float(np.sqrt((values - mean) ** 2 @ weights)),
        **{name: float(values[min(last, int(np.searchsorted(cumulative, q)))]) for name, q in QUANTILES.items()},
    }


def to_lists(stats: FeatureStats) -> dict[str, list[Any]]:
    """For JSON and parquet: floats, and the count as an integer."""
    return {name: value.tolist() if name == "count" else value.astype(float).tolist() for name, value in stats.items()}
