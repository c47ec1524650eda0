"""One demonstration: a scripted expert acts, disturbed, and everything that a policy learns from is kept.

This runs in worker processes, perhaps those of another Python: writing datasets is not its business.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fathom.simulation import find_suite, make_env
from fathom.simulation.noise import ExpertNoise

if TYPE_CHECKING:
    from fathom.simulation.environment import Environment, Quality

Array = NDArray[Any]


@dataclass(frozen=True)
class Style:
    """How demonstrations are made.

    Attributes:
        cameras: that the dataset shows; depth and segmentation are those of the first, ``main``.
        options: further keyword arguments of the suite's environments.
        noise: what disturbs the executed actions; ``None`` for the suite's own.
        hold: frames kept after success, so that a policy learns to stay there.
        label_names: the dataset's segmentation labels; empty for no segmentation.
    """

    image_size: int = 128
    cameras: tuple[str, ...] = ("main",)
    quality: "Quality" = "fast"
    options: tuple[tuple[str, Any], ...] = ()
    noise: ExpertNoise | None = None
    hold: int = 8
    label_names: tuple[str, ...] = ()

    def environment(self, suite: str, task: str) -> "Environment":
        """What shows it."""
        return make_env(
            suite,
            task,
            cameras=self.cameras,
            image_size=self.image_size,
            quality=self.quality,
            depth=True,
            segmentation=bool(self.label_names),
            **dict(self.options),
        )


class Demonstration(NamedTuple):
    """Frame by frame (first axis: time): what is seen before an action, and the action that the expert wanted.

    Attributes:
        images: by camera, uint8 (T, H, W, 3).
        depth: of the camera ``main``, float32 (T, H, W) in metres.
        segmentation: likewise, uint8 labels by their place in :attr:`Style.label_names`; None if not asked for.
        state: float32 (T, S).
        actions: float32 (T, A), undisturbed and clipped.
    """

    images: dict[str, Array]
    depth: Array
    segmentation: Array | None
    state: Array
    actions: Array


def record(suite: str, task: str, seed: int, style: Style) -> Demonstration | None:
    """A demonstration, or None where the expert does not solve the layout."""
    env = _environment(suite, task, style)
    noise = style.noise or find_suite(suite).noise
    offsets = noise.offsets(env.max_steps, env.action_width, np.random.default_rng(seed))
    seen, actions = [], []
    solved_at: int | None = None
    env.restart(seed)
    expert = find_suite(suite).expert(env)
    for step, offset in enumerate(offsets):
        seen.append(env.observe())
        actions.append(expert())
        _, success, truncated = env.advance(actions[-1] + offset)
        if success and solved_at is None:
            solved_at = step
        if truncated or (solved_at is not None and step == solved_at + style.hold):
            break
    if solved_at is None:
        return None
    segmentation = None
    if style.label_names:
        label_of = np.array([style.label_names.index(name) for name in env.segmentation_names], np.uint8)
        segmentation = label_of[np.stack([view["segmentation"]["main"] for view in seen])]
    return Demonstration(
        {camera: np.stack([view["images"][camera] for view in seen]) for camera in env.cameras},
        np.stack([view["depth"]["main"] for view in seen]),
        segmentation,
        np.stack([view["state"] for view in seen]),
        np.stack(actions).astype(np.float32),
    )


def label_names(suite: str, task: str, style: Style) -> tuple[str, ...]:
    """The names of what segmentation tells apart in a task's scene."""
    env = style.environment(suite, task)
    env.close()
    return env.segmentation_names


def check_expert(suite: str, task: str, style: Style) -> None:
    """Raise a UserError if the task has no scripted expert."""
    env = _environment(suite, task, style)
    env.restart(0)
    find_suite(suite).expert(env)


_environments: dict[tuple[str, str, Style], "Environment"] = {}


def _environment(suite: str, task: str, style: Style) -> "Environment":
    """Built once for the last two tasks: a worker mostly stays with one, and goes back for the episodes that failed."""
    key = (suite, task, style)
    if key not in _environments:
        if len(_environments) == 2:
            _environments.pop(next(iter(_environments))).close()
        _environments[key] = style.environment(suite, task)
    return _environments[key]
