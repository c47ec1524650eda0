"""What every simulated robot here is: a gymnasium environment that shows what a robot would see, and counts actions.

This module and the environments built on it run in worker processes that have numpy, gymnasium and one simulator, and
nothing else: see :mod:`fathom.workers`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fathom.simulation.rendering import Camera

Array = NDArray[Any]
Observed = dict[str, Any]

Quality = Literal["fast", "official"]
"""``official`` is the look that the simulator's authors chose; ``fast`` drops shadows and the like."""


class Environment(gymnasium.Env[Observed, Array], ABC):
    """One task of a suite.

    Observation: ``images: {camera: uint8 (H, W, 3)}``, upright; ``state: float32 (S,)``, the robot's proprio; where
    asked for, ``depth: {camera: float32 (H, W)}`` in metres along the optical axis and ``segmentation: {camera: uint8
    (H, W)}`` with the labels of :attr:`segmentation_names`. Never the goal or where objects are. Action: (A,).

    ``info["success"]`` is true on the step that solves the task (then ``terminated``); ``info["instruction"]`` is the
    sentence. Stepping on after success is allowed, up to the limit.

    Args:
        task: its name in the suite.
        instruction: the sentence that asks for it.
        fps: actions per second.
        max_steps: actions in an episode before it is truncated.
        cameras: that observations show, in this order; ``main`` is the one whose depth is predicted.
        image_size: side of the square pictures.
        state_width: S.
        action_low, action_high: bounds of each component of an action, which is clipped to them.
        seed: the layout of the first reset; a reset without a seed takes the next number.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}  # type: ignore[misc]
    segmentation_names: tuple[str, ...] = ()
    """What a label in a segmentation means, by its number."""
    main_camera: "Camera | None" = None
    """How ``main`` sees, for a suite that draws its pictures through a ``Camera``."""

    def __init__(
        self,
        *,
        task: str,
        instruction: str,
        fps: float,
        max_steps: int,
        cameras: Sequence[str],
        image_size: int,
        depth: bool,
        segmentation: bool,
        state_width: int,
        action_low: Sequence[float],
        action_high: Sequence[float],
        seed: int,
    ) -> None:
        self.task = task
        self.instruction = instruction
        self.fps = fps
        self.max_steps = max_steps
        self.cameras = tuple(cameras)
        self.image_size = image_size
        self.render_mode = "rgb_array"
        self._depth = depth
        self._segmentation = segmentation
        self._next_seed = seed
        self._state_width = state_width
        self._low, self._high = np.asarray(action_low, np.float32), np.asarray(action_high, np.float32)
        self.action_space = gymnasium.spaces.Box(self._low, self._high)

    @property
    def action_width(self) -> int:
        """Components of an action: A."""
        return len(self._low)

    @property
    def observation_space(self) -> gymnasium.spaces.Dict:  # type: ignore[override]
        """The shapes and types of an observation."""
        box, size = gymnasium.spaces.Box, self.image_size
        kinds: dict[str, Any] = {"images": box(0, 255, (size, size, 3), np.uint8)}
        if self._depth:
            kinds["depth"] = box(0.0, np.inf, (size, size), np.float32)
        if self._segmentation:
            kinds["segmentation"] = box(0, len(self.segmentation_names) - 1, (size, size), np.uint8)
        spaces: dict[str, gymnasium.Space[Any]] = {
            name: gymnasium.spaces.Dict(dict.fromkeys(self.cameras, kind)) for name, kind in kinds.items()
        }
        return gymnasium.spaces.Dict(spaces | {"state": box(-np.inf, np.inf, (self._state_width,), np.float32)})

    # What a simulator says. ------------------------------------------------------------------------------------------

    @abstractmethod
    def restart(self, seed: int, init_state: int | None = None) -> None:
        """Start an episode without looking.

        Args:
            seed: fixes the layout, goal and everything that follows from the actions.
            init_state: the number of one of the benchmark's recorded initial states, where the suite has such; the
                layout is then that one, whatever the seed.
        """

    @abstractmethod
    def act(self, action: Array) -> tuple[float, bool, bool]:
        """Act once without looking: (reward, success, truncated). ``action`` is finite and within the bounds."""

    @abstractmethod
    def observe(self) -> Observed:
        """What the robot sees now."""

    @abstractmethod
    def state(self) -> Array:
        """Proprio, float32 (S,)."""

    @abstractmethod
    def close(self) -> None:
        """Free the simulator and its renderers; a second call does nothing."""

    # What follows from it. -------------------------------------------------------------------------------------------

    def advance(self, action: Array) -> tuple[float, bool, bool]:
        """Act once without looking: (reward, success, truncated).

        Raises:
            ValueError: the action is not A finite numbers.
        """
        action = np.asarray(action, np.float32)
        if action.shape != self._low.shape or not np.isfinite(action).all():
            raise ValueError(f"an action must be {self.action_width} finite numbers, not {action}")
        return self.act(np.clip(action, self._low, self._high))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observed, dict[str, Any]]:
        """Start the episode that ``seed`` fixes; ``options={"init_state": 3}`` chooses a recorded initial state."""
        seed = self._next_seed if seed is None else seed
        self._next_seed = seed + 1
        self.restart(seed, (options or {}).get("init_state"))
        return self.observe(), self._info(success=False)

    def step(self, action: Array) -> tuple[Observed, float, bool, bool, dict[str, Any]]:
        """Act once and look. ``terminated`` means solved, ``truncated`` out of time."""
        reward, success, truncated = self.advance(action)
        return self.observe(), reward, success, truncated, self._info(success)

    def step_chunk(self, actions: Array) -> tuple[Observed, float, bool, bool, dict[str, Any]]:
        """Act (H, A) actions and look once, at the end; stops early on success or at the limit.

        The reward is summed; ``info["steps"]`` counts the actions that were carried out.
        """
        total, steps, success, truncated = 0.0, 0, False, False
        for action in actions:
            reward, success, truncated = self.advance(action)
            total += reward
            steps += 1
            if success or truncated:
                break
        return self.observe(), total, success, truncated, self._info(success) | {"steps": steps}

    def render(self) -> Array:  # type: ignore[override]
        """The main camera's picture, uint8 (H, W, 3)."""
        image: Array = self.observe()["images"][self.cameras[0]]
        return image

    def _info(self, success: bool) -> dict[str, Any]:
        return {"success": success, "instruction": self.instruction}
