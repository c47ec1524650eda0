"""A second depth feature for a dataset: the true one made worse, so that the cost of noisy labels can be measured."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console

from fathom.data.dataset import open_dataset
from fathom.data.extend import FeatureAdder
from fathom.data.features import IMAGES, DatasetInfo, Feature
from fathom.depth.degradation import DepthNoise
from fathom.errors import UserError
from fathom.progress import progress_bar


def degrade(
    dataset: str | Path,
    noise: DepthNoise,
    *,
    source: str = "main_depth",
    name: str = "noisy_depth",
    seed: int = 0,
    console: Console | None = None,
) -> int:
    """Add a degraded copy of a depth feature; run it again after an interruption and it goes on.

    The dataset's fingerprint changes with its features: do this before anything is trained on it.

    Args:
        source: the true depth in metres.
        name: of the new feature.
        seed: of the noise; each episode draws its own.

    Returns:
        how many episodes there are.

    Raises:
        UserError: the dataset has no such depth, it is not in metres, or the new feature is there already.
    """
    root = Path(dataset)
    feature = DatasetInfo.load(root).features.get(f"{IMAGES}{source}")
    if feature is not None and feature.kind == "depth" and feature.depth_kind != "metric":
        raise UserError(f"{root}: {source} is relative inverse depth; noise is added to depth in metres")
    open_dataset(root, cameras=(), depth=[source])  # which says what is missing
    assert feature is not None
    height, width, _ = feature.picture_shape
    made_from = {"source": source, "noise": asdict(noise), "seed": seed}
    adder = FeatureAdder(root, f"{IMAGES}{name}", Feature.depth(height, width), made_from)
    with progress_bar(console) as bar:
        task = bar.add_task("degrading", total=len(adder.episodes), note="episodes")
        bar.update(task, completed=len(adder.episodes) - len(adder.missing))
        for episode in adder.missing:
            one = open_dataset(root, cameras=(), depth=[source], episodes=[episode])
            metres = np.stack([one.picture(f"{IMAGES}{source}", frame)[0] for frame in range(len(one))])
            worse = noise.apply(metres, np.random.default_rng([seed, episode]))
            adder.stage(episode, np.where(worse <= adder.feature.depth_codec.maximum, worse, 0), {})
            bar.advance(task)
    adder.finish({f"{name}.json": made_from})
    return len(adder.episodes)
