"""ManiSkill 3's twins of BridgeData's WidowX as gymnasium environments: SIMPLER's four tasks of this robot.

The layouts of SIMPLER's protocol are its 24 episodes per task (``init_state``). A seed draws others from the same
range: anywhere between the grid's points, turned by up to half of the grid's step.

Departures from ManiSkill's own loop, all on purpose: pictures are drawn only when somebody looks; every episode has a
scene of its own (else objects settle onto wherever the last episode has left the arm, and a little differently); and a
rotation is what the action's roll, pitch, yaw say (SIMPLER's script for ManiSkill 3 hands an axis times an angle to a
controller that reads turns about axes: the same to first order).
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from fathom.simulation.environment import Array, Environment, Observed, Quality
from fathom.simulation.perturbation import Draw, Perturbation
from fathom.simulation.simpler import conventions
from fathom.simulation.simpler.layouts import Layout, official_layout, varied_layout
from fathom.simulation.simpler.pictures import CAMERA, COMMON_LABELS, TwinCamera, sensor_settings
from fathom.simulation.simpler.tasks import WIDOWX_FPS, WIDOWX_TASKS, Judged


class WidowXEnv(Environment):
    """One of SIMPLER's tasks of the WidowX.

    Its state is the hand's x, y, z in metres in the base frame, its roll, pitch, yaw from pointing straight down, and
    the gripper's opening in 0..1; an action is a step of the hand in the base frame and the gripper's opening: see
    :mod:`~fathom.simulation.simpler.conventions`. Depth is in whole millimetres; where the picture shows the
    photograph, it is the simulated table's (or sink's), which reaches further than the photographed one.

    Args:
        task: one of :data:`~fathom.simulation.simpler.tasks.WIDOWX_TASKS`.
        perturbation: drawn anew from each episode's seed.
        judged: SIMPLER itself judges at the end; demonstrations end when the task is solved.

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
        quality: Quality = "fast",
        perturbation: Perturbation | None = None,
        judged: Judged = "at_once",
    ) -> None:
        self._about = WIDOWX_TASKS[task]
        super().__init__(
            task=task,
            instruction=self._about.instruction,
            fps=WIDOWX_FPS,
            max_steps=self._about.max_steps,
            cameras=cameras,
            image_size=image_size,
            depth=depth,
            segmentation=segmentation,
            state_width=len(conventions.WIDOWX_STATE_NAMES),
            action_low=conventions.ACTION_LOW,
            action_high=conventions.ACTION_HIGH,
            seed=seed,
        )
        self.segmentation_names = (*COMMON_LABELS, self._about.source, self._about.target)
        self._judged = judged
        self._steps = 0
        self.world: Any = _make_world(self._about.world, quality, image_size)
        self._grid = Layout(np.asarray(self.world.xyz_configs), np.asarray(self.world.quat_configs))
        self._camera: TwinCamera | None = None  # made when the first picture is wanted
        self._perturbation = perturbation

    def restart(self, seed: int, init_state: int | None = None) -> None:
        """Start the episode that ``seed`` fixes, or SIMPLER's episode ``init_state``."""
        if init_state is None:
            layout = varied_layout(self.task, self._grid, np.random.default_rng(seed))
        else:
            layout = official_layout(self._grid, init_state)
        self.world.xyz_configs, self.world.quat_configs = layout.tensors()
        self.world.reset(seed=seed, options={"reconfigure": True, "episode_id": 0})
        self._camera = None
        self._steps = 0
        if self._perturbation is not None:
            self._perturb(self._perturbation.draw(seed))

    def act(self, action: Array) -> tuple[float, bool, bool]:
        """Act once without looking; the reward is 1 where the task is solved."""
        info = self.world.step(conventions.widowx_to_maniskill(action))[-1]
        self._steps += 1
        truncated = self._steps >= self.max_steps
        solved = bool(info["success"]) and (self._judged == "at_once" or truncated)
        return float(solved), solved, truncated

    def observe(self) -> Observed:
        """What the robot sees now."""
        picture = self._eye().look()
        observed: Observed = {"images": {"main": picture.rgb}, "state": self.state()}
        if self._depth:
            observed["depth"] = {"main": picture.depth}
        if self._segmentation:
            observed["segmentation"] = {"main": picture.labels}
        return observed

    def state(self) -> Array:
        """Proprio, float32 (7,); see the class."""
        return conventions.widowx_state(self.hand(), self.openness())

    def hand(self) -> Array:
        """Pose of the hand in the base frame, (7,): position and quaternion."""
        return self._numpy(self._arm().ee_pose_at_base)

    def _eye(self) -> TwinCamera:
        if self._camera is None:
            names = (self._about.source, self._about.target)
            self._camera = TwinCamera(self.world, self._photograph(), names, self.image_size)
        return self._camera

    def _photograph(self) -> str:
        path: str = self.world.rgb_overlay_paths[CAMERA]
        return path

    def _perturb(self, draw: Draw) -> None:
        from fathom.simulation.simpler.perturb import TwinPerturber

        TwinPerturber(self.world, self._eye(), self._photograph()).restart(draw)

    # For scripted experts alone. -------------------------------------------------------------------------------------

    def aim(self) -> Array:
        """Where the controller is taking the hand, (7,) in the base frame: an action moves this."""
        return self._numpy(self._arm()._target_pose)

    def source(self) -> Array:
        """Pose in the base frame (7,) of the thing that is to be moved."""
        return self._in_base_frame(self.world.source_obj_name)

    def target(self) -> Array:
        """Pose in the base frame (7,) of where it is to go."""
        return self._in_base_frame(self.world.target_obj_name)

    def openness(self) -> float:
        """Of the gripper, 0..1."""
        return conventions.widowx_openness(self.world.agent.robot.get_qpos()[0, -2:].numpy())

    def is_holding(self) -> bool:
        """Whether both fingers press on the thing."""
        return bool(self.world.agent.is_grasping(self.world.objs[self.world.source_obj_name]))

    def _arm(self) -> Any:
        return self.world.agent.controller.controllers["arm"]

    def _in_base_frame(self, name: str) -> Array:
        return self._numpy(self.world.agent.robot.pose.inv() * self.world.objs[name].pose)

    @staticmethod
    def _numpy(pose: Any) -> Array:
        values: Array = pose.raw_pose[0].numpy()
        return values

    def close(self) -> None:
        """Free the simulator."""
        if self.world is not None:
            self.world.close()
            self.world = self._camera = None


def _make_world(name: str, quality: Quality, image_size: int) -> Any:
    """ManiSkill's environment without its wrappers, which would ask on the terminal whether to download assets."""
    import mani_skill.envs  # noqa: F401 (this registers them)
    from mani_skill.utils.logging_utils import logger
    from mani_skill.utils.registration import REGISTERED_ENVS

    logger.setLevel(logging.ERROR)  # it warns of its own tasks' settings
    # ManiSkill keeps these on the class, where environments side by side would spoil each other's; pictures are ours.
    own = {"SUPPORTED_OBS_MODES": ["none"], "rgb_overlay_mode": "none", "_objects_to_remove_from_greenscreen": []}
    world_class: Any = type(name, (REGISTERED_ENVS[name].cls,), own | {"_rgb_overlay_images": {}})
    intrinsic = np.array([[623.588, 0, 319.501], [0, 623.588, 239.545], [0, 0, 1]])
    return world_class(
        obs_mode="none",
        num_envs=1,
        sim_backend="physx_cpu",
        render_backend="cpu",
        sensor_configs=sensor_settings(intrinsic, quality, image_size),
    )
