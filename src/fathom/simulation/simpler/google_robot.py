"""The Google Robot's tasks of an installed SIMPLER (``simpler_env``, SAPIEN 2) as gymnasium environments.

SIMPLER's own simulator is not on the package registries. What this adapter relies on was recorded from one, for one
task, and tests replay it: see ``docs/howto/simpler.md`` for what was run and what was not.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from fathom.errors import UserError
from fathom.simulation.environment import Array, Environment, Observed, Quality
from fathom.simulation.perturbation import Perturbation
from fathom.simulation.simpler import conventions
from fathom.simulation.simpler.tasks import GOOGLE_FPS, GOOGLE_TASKS, Judged

CAMERA = "overhead_camera"


class GoogleRobotEnv(Environment):
    """One of SIMPLER's tasks of the Google Robot, in its visual-matching scenes.

    Its state is the hand's x, y, z in metres and quaternion x, y, z, w in the base frame, and the gripper's closedness
    in 0..1; an action is a step of the hand in the base frame and the gripper's opening: see
    :mod:`~fathom.simulation.simpler.conventions`. Its picture is the overhead camera's 640×512, squashed to a square.
    The instruction can change within an episode: open the drawer, then place the apple into it.

    Args:
        task: one of :data:`~fathom.simulation.simpler.tasks.GOOGLE_TASKS`.
        quality: there is one look, SIMPLER's own.
        judged: SIMPLER itself judges at the end.

    Raises:
        UserError: segmentation or a perturbation is asked for, which this adapter has not.

    See :class:`~fathom.simulation.environment.Environment` for the rest.
    """

    def __init__(
        self,
        task: str,
        *,
        seed: int = 0,
        cameras: Sequence[str] = ("main",),
        image_size: int = 128,
        depth: bool = False,
        segmentation: bool = False,
        quality: Quality = "official",
        perturbation: Perturbation | None = None,
        judged: Judged = "at_once",
    ) -> None:
        if segmentation or perturbation is not None:
            raise UserError("simpler_google has neither segmentation nor perturbations: leave them away.")
        super().__init__(
            task=task,
            instruction=GOOGLE_TASKS[task].instruction,
            fps=GOOGLE_FPS,
            max_steps=GOOGLE_TASKS[task].max_steps,
            cameras=cameras,
            image_size=image_size,
            depth=depth,
            segmentation=False,
            state_width=len(conventions.GOOGLE_STATE_NAMES),
            action_low=conventions.ACTION_LOW,
            action_high=conventions.ACTION_HIGH,
            seed=seed,
        )
        import simpler_env

        self._world: Any = simpler_env.make(task)
        self._judged = judged
        self._gripper = conventions.GoogleGripper()
        self._steps = 0
        self._seen: dict[str, Any] = {}

    def restart(self, seed: int, init_state: int | None = None) -> None:
        """Start the episode that ``seed`` fixes.

        Raises:
            UserError: an initial state is asked for by number.
        """
        if init_state is not None:
            raise UserError("simpler_google has no numbered initial states: its layouts come from seeds.")
        self._seen, _ = self._world.reset(seed=seed)
        self._gripper = conventions.GoogleGripper()
        self._steps = 0
        self.instruction = self._world.get_language_instruction()

    def act(self, action: Array) -> tuple[float, bool, bool]:
        """Act once; SIMPLER draws at every step, whether anybody looks or not."""
        told = conventions.google_to_simpler(action, self._gripper(float(action[6])))
        self._seen, reward, _, truncated, info = self._world.step(told)
        self._steps += 1
        self.instruction = self._world.get_language_instruction()
        truncated = bool(truncated) or self._steps >= self.max_steps
        return float(reward), bool(info["success"]) and (self._judged == "at_once" or truncated), truncated

    def observe(self) -> Observed:
        """What the robot sees now."""
        seen = self._seen["image"][CAMERA]
        size = (self.image_size, self.image_size)
        observed: Observed = {
            "images": {"main": cv2.resize(np.asarray(seen["rgb"]), size, interpolation=cv2.INTER_AREA)},
            "state": self.state(),
        }
        if self._depth:
            depth = np.asarray(seen["depth"])[..., 0]
            observed["depth"] = {"main": cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST).astype(np.float32)}
        return observed

    def state(self) -> Array:
        """Proprio, float32 (8,); see the class."""
        agent = self._seen["agent"]
        closedness = conventions.google_closedness(
            agent["qpos"][-4:-2]
        )  # two joints of the head come after the fingers
        return conventions.google_state(agent["base_pose"], self._seen["extra"]["tcp_pose"], closedness)

    def close(self) -> None:
        """Free the simulator."""
        if self._world is not None:
            self._world.close()
            self._world = None
