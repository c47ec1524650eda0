"""One demonstration: a scripted expert acts, disturbed, and everything that a policy learns from is written down."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fathom.data.features import ACTION, IMAGES, MAIN_DEPTH, STATE, Feature
from fathom.data.writer import DatasetWriter
from fathom.simulation import SUITES, make_env
from fathom.simulation.experts import ExpertNoise, ScriptedExpert
from fathom.simulation.metaworld_tasks import ACTION_NAMES, STATE_NAMES

if TYPE_CHECKING:
    from fathom.simulation.metaworld import MetaWorldEnv

MAIN = f"{IMAGES}main"
ROBOT = "sawyer"
MAIN_SEGMENTATION = f"{IMAGES}main_segmentation"

Frames = dict[str, NDArray[Any]]


def dataset_features(image_size: int, label_names: tuple[str, ...]) -> dict[str, Feature]:
    """The features of a dataset; ``label_names`` is empty without segmentation."""
    wanted = {
        MAIN: Feature.rgb(image_size, image_size),
        MAIN_DEPTH: Feature.depth(image_size, image_size),
        STATE: Feature.vector(STATE_NAMES),
        ACTION: Feature.vector(ACTION_NAMES),
    }
    if label_names:
        wanted[MAIN_SEGMENTATION] = Feature.segmentation(image_size, image_size, dict(enumerate(label_names)))
    return wanted


@dataclass(frozen=True)
class Style:
    """How demonstrations are made.

    Attributes:
        spread: see :class:`~fathom.simulation.metaworld.MetaWorldEnv`.
        noise: what disturbs the executed actions.
        hold: frames kept after success, so that a policy learns to stay there.
        label_names: the dataset's segmentation labels; empty for no segmentation.
    """

    image_size: int = 128
    spread: float | None = None
    noise: ExpertNoise = field(default_factory=ExpertNoise)
    hold: int = 8
    label_names: tuple[str, ...] = ()


def record(suite: str, task: str, seed: int, style: Style) -> Frames | None:
    """The frames of one demonstration (first axis: time), or None where the expert does not solve the layout.

    A frame is what is seen before its action; the action is what the expert wanted, undisturbed and clipped.
    """
    env = _environment(suite, task, style.image_size, style.spread, bool(style.label_names))
    expert = ScriptedExpert(task)
    offsets = style.noise.offsets(env.max_steps, np.random.default_rng(seed))
    label_of = np.array([style.label_names.index(name) for name in env.segmentation_names if style.label_names])
    rows: list[dict[str, Any]] = []
    solved_at: int | None = None
    env.restart(seed)
    for step, offset in enumerate(offsets):
        seen, action = env.observe(), expert(env)
        row = {MAIN: seen["images"]["main"], MAIN_DEPTH: seen["depth"]["main"], STATE: seen["state"], ACTION: action}
        if style.label_names:
            row[MAIN_SEGMENTATION] = label_of[seen["segmentation"]["main"]]
        rows.append(row)
        _, success, _ = env.advance(action + offset)
        if success and solved_at is None:
            solved_at = step
        if solved_at is not None and step == solved_at + style.hold:
            break
    if solved_at is None:
        return None
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def stage(
    root: Path, features: Mapping[str, Feature], fps: int, number: int, suite: str, task: str, seed: int, style: Style
) -> int:
    """Record a demonstration and stage it in the dataset at ``root``: its number of frames, 0 if the expert failed."""
    frames = record(suite, task, seed, style)
    if frames is None:
        return 0
    DatasetWriter(root, features, fps, ROBOT).stage_episode(number, frames, SUITES[suite][task])
    return len(frames[ACTION])


def label_names(suite: str, task: str) -> tuple[str, ...]:
    """The names of what segmentation tells apart in a task's scene."""
    return _environment(suite, task, image_size=128, spread=None, segmentation=True).segmentation_names


@lru_cache(maxsize=2)  # a worker mostly stays with one task, and goes back for the episodes that failed
def _environment(suite: str, task: str, image_size: int, spread: float | None, segmentation: bool) -> "MetaWorldEnv":
    return make_env(suite, task, image_size=image_size, depth=True, segmentation=segmentation, spread=spread)
