"""The layer-wise analysis of one or several policies on the same frames."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from rich.console import Console

from fathom.analysis.measuring import Measuring
from fathom.analysis.regions import Region, RegionSource, draw_regions, region_tokens
from fathom.analysis.result import Grounding, Shown
from fathom.analysis.sight import CAMERA, Sight, sight_of
from fathom.data.dataset import LeRobotDataset, known_split, open_dataset
from fathom.data.features import IMAGES
from fathom.errors import UserError
from fathom.policies import Policy, load_policy
from fathom.progress import progress_bar
from fathom.training.device import pick_device

HELD_OUT = "validation"
"""The split that is used unless told otherwise, where a dataset has it."""

_AT_ONCE = 16


@dataclass(frozen=True)
class Settings:
    """How the analysis is made.

    Attributes:
        frames: measured at most; they are drawn from those that show the region.
        shown: how many of them have their heat maps drawn.
        layers: from which tokens are removed, one after another; empty for every layer.
        rates: shares of the region's tokens that are removed.
        split: of the dataset; by default ``validation`` where there is such, else all of it.
        seed: of the frames, the removed tokens and the noise.

    Raises:
        UserError: one of them makes no sense.
    """

    frames: int = 64
    shown: int = 3
    layers: tuple[int, ...] = ()
    rates: tuple[float, ...] = (0.25, 0.5, 1.0)
    split: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("shown", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)}: expected {least} or more")
        if not self.rates or not all(0 < rate <= 1 for rate in self.rates):
            told = " ".join(f"{rate:g}" for rate in self.rates)
            raise UserError(f"--rates {told}: expected shares of the region's tokens, above 0 and up to 1")


def load_policies(sources: Sequence[Path]) -> dict[str, Policy]:
    """Policies ready to be analysed, each under a name that tells it from the others: that of its folder.

    Raises:
        UserError: one is named twice, cannot be read, or is of an unknown kind.
    """
    if len({source.resolve() for source in sources}) < len(sources):
        raise UserError("a policy is named twice: name different ones to compare them")
    policies = [load_policy(source).to(pick_device()).requires_grad_(False) for source in sources]
    # not resolved: a link may have a shorter name than what it points to
    return dict(zip(_names([source.absolute() for source in sources]), policies, strict=True))


def analyze_grounding(
    policies: Mapping[str, Policy],
    dataset: Path,
    source: RegionSource,
    settings: Settings = Settings(),
    console: Console | None = None,
) -> Grounding:
    """Analyse what policies look at, all on the same frames.

    Args:
        policies: by the name that each goes by in the result.
        source: says where the region is.

    Raises:
        UserError: the dataset, the region, a layer or a policy is not as expected.
    """
    split = settings.split or known_split(dataset, HELD_OUT)
    sights = {label: sight_of(policy) for label, policy in policies.items()}
    layers = {label: _layers(label, sight, settings.layers) for label, sight in sights.items()}
    frames = source.open(dataset, split)
    regions = draw_regions(frames, source, settings.frames, settings.seed)
    drawn = _facts(frames, regions)
    episodes = np.array([fact["episode"] for fact in drawn])
    shown = _to_show(episodes, settings.shown)
    found = []
    with progress_bar(console or Console(stderr=True)) as bar:
        for label, sight in sights.items():
            task = bar.add_task(label, total=None, note="passes")
            measuring = Measuring(sight, layers[label], settings.rates, settings.seed, partial(bar.advance, task))
            bar.update(task, total=measuring.passes * -(-len(regions) // _AT_ONCE))
            _measure(measuring, dataset, split, regions, settings.seed)
            found.append(measuring.summed_up(label, episodes, shown))
    pictures = [_picture(frames, regions[place], drawn[place]) for place in shown]
    names = list(dict.fromkeys(region.name for region in regions))
    return Grounding(dataset.name, split, names, asdict(settings), drawn, found, pictures)


def _measure(measuring: Measuring, dataset: Path, split: str | None, regions: list[Region], seed: int) -> None:
    """All frames, batch by batch."""
    sight, policy = measuring.sight, measuring.sight.policy
    horizon, _ = policy.noise_shape
    frames = open_dataset(dataset, cameras=policy.cameras, horizon=horizon, split=split)
    noise = torch.randn(len(regions), *policy.noise_shape, generator=torch.Generator().manual_seed(seed))
    tokens = {grid.name: region_tokens(regions, grid.side) for grid in sight.grids}
    for begin in range(0, len(regions), _AT_ONCE):
        rows = slice(begin, begin + _AT_ONCE)
        batch = frames.batch([region.frame for region in regions[rows]]).to(policy.device)
        here = {name: mask[rows].to(policy.device) for name, mask in tokens.items()}
        measuring.measure(batch, noise[rows].to(policy.device), here)


def _layers(label: str, sight: Sight, wanted: Sequence[int]) -> list[int]:
    """The layers from which tokens are removed."""
    there = sorted(sight.place_of)
    if outside := [layer for layer in wanted if layer not in there]:
        raise UserError(
            f"--layers {outside[0]}: the policy {label!r} has the layers {there[0]} to {there[-1]}; name some of these"
        )
    return sorted(set(wanted)) or there


def _facts(frames: LeRobotDataset, regions: list[Region]) -> list[dict[str, Any]]:
    columns = {"index": "index", "episode": "episode_index", "frame": "frame_index"}
    return [
        {name: int(frames.columns[column][region.frame]) for name, column in columns.items()} | {"region": region.name}
        for region in regions
    ]


def _to_show(episodes: Int[np.ndarray, " frames"], count: int) -> list[int]:
    """So many frames, spread over the episodes: the middle one of each that is chosen."""
    numbers = np.unique(episodes)
    chosen = numbers[np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)]
    places = [np.flatnonzero(episodes == number) for number in chosen]
    return [int(own[len(own) // 2]) for own in places]


def _picture(frames: LeRobotDataset, region: Region, fact: dict[str, Any]) -> Shown:
    picture = frames.picture(f"{IMAGES}{CAMERA}", region.frame).transpose(1, 2, 0)
    instruction = frames.tasks[int(frames.columns["task_index"][region.frame])]
    return Shown(picture, region.pixels, instruction, fact["episode"], fact["frame"])


def _names(paths: Sequence[Path]) -> list[str]:
    """As much of the end of each path as tells it from the others; what they all end with says nothing."""
    parts = [path.parts[:-1] if path.name == "policy" else path.parts for path in paths]
    while len(parts) > 1 and len({own[-1] for own in parts}) == 1:
        parts = [own[:-1] for own in parts]
    length = 1
    while len({own[-length:] for own in parts}) < len(parts):
        length += 1
    return ["/".join(own[-length:]) for own in parts]
