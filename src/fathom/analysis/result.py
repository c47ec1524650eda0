"""What the analysis found."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from fathom.analysis.removal import Method, Where
from fathom.evaluation import Rate

Layers = list[Rate | None]
"""A mean over frames for each layer; ``None`` where there is nothing to measure."""


@dataclass(frozen=True)
class Removed:
    """One point of a sensitivity curve.

    Attributes:
        method: see :data:`~fathom.analysis.removal.METHODS`.
        where: ``region``, or ``control``: as many tokens elsewhere.
        rate: the share of the region's tokens.
        layer: from which on they are gone.
        change: mean distance of the actions from those of the untouched policy, in normalised units.
        error: that from the dataset's actions.
        harm: by how much that is more than the untouched policy's error in the same frames.
    """

    method: Method
    where: Where
    rate: float
    layer: int
    change: Rate
    error: Rate
    harm: Rate


@dataclass(frozen=True)
class PolicyGrounding:
    """What one policy looks at.

    Attributes:
        label: tells it from the others.
        title: what its architecture is called.
        layers: how many carry the actions.
        sides: of its grids of tokens, by name.
        area: the share of each grid that the region has, mean over frames: what an attention to anything would give.
            It is of the whole grid, also where a vision expert is pruned: what the pruning keeps of the region can lift
            or lower the share by itself.
        attention: by query, grid and measure.
        gradcam: by grid and measure.
        error: mean distance of the untouched policy's actions from the dataset's, in normalised units.
        removed: the sensitivity curves.
        heat: for each frame that is shown, each grid's heat maps.
    """

    label: str
    title: str
    layers: int
    sides: dict[str, int]
    area: dict[str, float]
    attention: dict[str, dict[str, dict[str, Layers]]]
    gradcam: dict[str, dict[str, Layers]]
    error: Rate
    removed: list[Removed]
    heat: list[dict[str, Float[np.ndarray, "layers side side"]]]


@dataclass(frozen=True)
class Shown:
    """A frame that is shown: its picture, its region, and what was asked for."""

    picture: UInt8[np.ndarray, "height width 3"]
    pixels: Bool[np.ndarray, "height width"]
    instruction: str
    episode: int
    frame: int


@dataclass(frozen=True)
class Grounding:
    """The analysis of one or several policies on the same frames.

    Attributes:
        dataset: its name.
        split: of it; ``None`` for all of it.
        regions: what was analysed, each name once.
        settings: how.
        frames: every frame's index in the whole dataset, its episode, its number there, and what its region is.
        policies: in the order in which they were given.
        shown: the frames whose heat maps the policies have.
    """

    dataset: str
    split: str | None
    regions: list[str]
    settings: dict[str, Any]
    frames: list[dict[str, Any]]
    policies: list[PolicyGrounding]
    shown: list[Shown]

    @property
    def episodes(self) -> int:
        """How many the frames are from."""
        return len({frame["episode"] for frame in self.frames})

    def to_json(self) -> dict[str, Any]:
        """All numbers; the pictures are left out."""
        plain = {name: getattr(self, name) for name in ("dataset", "split", "regions", "settings", "frames")}
        counts = {
            "n_frames": len(self.frames),
            "n_episodes": self.episodes,
            "interval": "95 %, bootstrap over episodes",
        }
        return plain | counts | {"policies": [_numbers(policy) for policy in self.policies]}


def _numbers(policy: PolicyGrounding) -> dict[str, Any]:
    plain = {name: getattr(policy, name) for name in ("label", "title", "layers", "sides", "area")}
    found = {name: _plain(getattr(policy, name)) for name in ("attention", "gradcam", "error")}
    return plain | found | {"removed": [_plain(vars(point)) for point in policy.removed]}


def _plain(value: Any) -> Any:
    """Rates as objects with named ends."""
    if isinstance(value, Rate):
        return value._asdict()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
