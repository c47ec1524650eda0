"""LIBERO's tasks as gymnasium environments that show what a robot would see.

As in the public recipes (OpenVLA, openpi), pictures are LIBERO's turned by 180 degrees. LIBERO's are upside down, so
these are upright, with left and right swapped; depth and segmentation alike.
"""

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from fathom.errors import UserError
from fathom.simulation.environment import Array, Environment, Observed, Quality
from fathom.simulation.libero import world as worlds
from fathom.simulation.libero.assets import initial_states
from fathom.simulation.libero.tasks import (
    ACTION_NAMES,
    FPS,
    SETTLE_STEPS,
    STATE_NAMES,
    STEP_LIMITS,
    instruction,
)
from fathom.simulation.perturbation import Perturbation
from fathom.simulation.perturber import Perturber
from fathom.simulation.rendering import Camera, Picture, Renderer
from fathom.simulation.staging import Stage

COMMON_LABELS = ("background", "floor", "wall", "table", "arm", "gripper")

_DUMMY_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
_VIEWS = {"main": "agentview", "wrist": "robot0_eye_in_hand"}
_COLLISION_GROUP = 0
_FURNITURE_SEED = 10_000  # far from those of demonstrations
_WORKSPACE = ((-0.2, -0.3, 0.0), (0.15, 0.3, 0.15))
"""Two corners, in metres from the middle of the surface that things stand on."""


class LiberoEnv(Environment):
    """One task of one LIBERO suite.

    State (8,): the end effector's x, y, z in metres, its orientation as axis times angle in radians, the positions of
    both fingers in metres. Action (7,) in [-1, 1]: a step of the hand (1 = 5 cm), a turn (1 = 0.5 rad, axis times
    angle), and the gripper (-1 opens, 1 closes). The camera ``wrist`` is on the hand.

    An episode begins after :data:`~fathom.simulation.libero.tasks.SETTLE_STEPS` actions that do nothing.

    Args:
        task: one of :data:`~fathom.simulation.libero.tasks.TASKS` of the suite.
        suite: the suite's name.
        perturbation: what is changed in the pictures.

    Raises:
        UserError: LIBERO, its assets or OpenGL are missing.

    See :class:`~fathom.simulation.environment.Environment` for the rest.
    """

    main_camera: Camera

    def __init__(
        self,
        task: str,
        *,
        suite: str,
        seed: int = 0,
        cameras: Sequence[str] = ("main",),
        image_size: int = 128,
        depth: bool = False,
        segmentation: bool = False,
        quality: Quality = "fast",
        perturbation: Perturbation | None = None,
    ) -> None:
        super().__init__(
            task=task,
            instruction=instruction(task),
            fps=FPS,
            max_steps=STEP_LIMITS[suite],
            cameras=cameras,
            image_size=image_size,
            depth=depth,
            segmentation=segmentation,
            state_width=len(STATE_NAMES),
            action_low=(-1.0,) * len(ACTION_NAMES),
            action_high=(1.0,) * len(ACTION_NAMES),
            seed=seed,
        )
        self._quality: Quality = quality
        self._initial_states = initial_states(suite, task)
        self.world = worlds.build(suite, task)
        """The robosuite environment, for the scripted experts only."""
        self._model: mujoco.MjModel = self.world.sim.model._model
        self._data: mujoco.MjData = self.world.sim.data._data
        self.main_camera = Camera.of_model("main", self._model, self._data, _VIEWS["main"])
        self.segmentation_names, self._label_of_geom = _labels(self.world)
        self._perturber = None if perturbation is None else self._make_perturber(perturbation)
        self._renderer: Renderer | None = None  # made when the first picture is wanted
        self._steps = 0

    def restart(self, seed: int, init_state: int | None = None) -> None:
        """Start an episode without looking.

        Args:
            seed: draws the layout from the regions of the task's definition.
            init_state: one of LIBERO's 50 recorded states instead. They tell nothing of furniture: that is drawn from
                this number.

        Raises:
            UserError: there is no such recorded state.
        """
        if init_state is None:
            worlds.reset(self.world, seed)
        else:
            count = len(self._initial_states)
            if not 0 <= init_state < count:
                raise UserError(f"{self.task} has the initial states 0 to {count - 1}, and no state {init_state}.")
            worlds.reset(self.world, _FURNITURE_SEED + init_state, self._initial_states[init_state])
        for _ in range(SETTLE_STEPS):
            self.world.step(_DUMMY_ACTION)
        self._steps = 0
        if self._perturber is not None:
            self._perturber.restart(seed, self._data)

    def act(self, action: Array) -> tuple[float, bool, bool]:
        """Act once without looking: (reward, success, truncated); the reward is 1 where the task is solved."""
        _, reward, success, _ = self.world.step(action.astype(np.float64))
        self._steps += 1
        return float(reward), bool(success), self._steps >= self.max_steps

    def observe(self) -> Observed:
        """What the robot sees now."""
        observed: Observed = {"images": {}, "state": self.state()}
        for camera in self.cameras:
            picture = self._picture(camera)
            observed["images"][camera] = _mirrored(picture.rgb)
            if picture.depth is not None:
                observed.setdefault("depth", {})[camera] = _mirrored(picture.depth)
            if picture.segmentation is not None:
                # id -1 (the sky) reads the extra last entry, which is 0
                labels = self._label_of_geom[picture.segmentation]
                observed.setdefault("segmentation", {})[camera] = _mirrored(labels)
        return observed

    def state(self) -> Array:
        """Proprio, float32 (8,); see the class."""
        robot, data = self.world.robots[0], self._data
        w, x, y, z = data.body(robot.robot_model.eef_name).xquat
        fingers = data.qpos[robot._ref_gripper_joint_pos_indexes]
        position = data.site_xpos[robot.eef_site_id]
        return np.concatenate([position, axis_angle((x, y, z, w)), fingers]).astype(np.float32)

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _picture(self, camera: str) -> Picture:
        if self._renderer is None:
            self._renderer = Renderer(
                self._model,
                self.image_size,
                self.main_camera,
                self._quality,
                self._perturber,
                hidden_groups=(_COLLISION_GROUP,),
            )
        moving = None if camera == "main" else Camera.of_model(camera, self._model, self._data, _VIEWS[camera])
        return self._renderer.render(self._data, camera=moving, depth=self._depth, segmentation=self._segmentation)

    def _make_perturber(self, perturbation: Perturbation) -> Perturber:
        low, high = np.array(_WORKSPACE) + self.world.workspace_offset
        table, background = self._geoms("table"), self._geoms("floor", "wall", "background")
        if not table:  # things stand on the floor
            table, background = self._geoms("floor"), self._geoms("wall", "background")
        stage = Stage(table, background, tuple(low), tuple(high))
        return Perturber(self._model, stage, perturbation, [self.main_camera])

    def _geoms(self, *names: str) -> tuple[int, ...]:
        """The geoms that have one of these labels."""
        labels = [self.segmentation_names.index(name) for name in names]
        return tuple(int(geom) for geom in np.nonzero(np.isin(self._label_of_geom[:-1], labels))[0])


def axis_angle(quaternion: Sequence[float]) -> Array:
    """(3,): axis times angle of a unit quaternion (x, y, z, w), as the public recipes turn it into proprio.

    The angle is in 0..2 pi: no attempt is made to choose the shorter way round.
    """
    *axis, w = quaternion
    w = min(max(w, -1.0), 1.0)
    sine = np.sqrt(1.0 - w * w)
    if sine < 1e-8:
        return np.zeros(3)
    return np.array(axis) * (2.0 * np.arccos(w) / sine)


def _mirrored(picture: Array) -> Array:
    return np.ascontiguousarray(picture[:, ::-1])


def _labels(world: Any) -> tuple[tuple[str, ...], Array]:
    """Names by label, and the label of each geom id (with one more entry, 0, for id -1).

    Objects have LIBERO's own names (``akita_black_bowl_1``); a cabinet is one thing with its drawers.
    """
    model = world.sim.model._model
    things = {**world.objects_dict, **world.fixtures_dict}
    name_of_root = {thing.root_body: name for name, thing in things.items()}
    names = (*COMMON_LABELS, *things)
    labels = np.zeros(model.ngeom + 1, np.uint8)
    for geom in range(model.ngeom):
        body = model.body(int(model.geom_bodyid[geom])).name
        root = model.body(model.body_rootid[int(model.geom_bodyid[geom])]).name
        name = name_of_root.get(root) or _part_of_scene(model.geom(geom).name, body, root)
        labels[geom] = names.index(name)
    return names, labels


def _part_of_scene(geom: str, body: str, root: str) -> str:
    if root == "robot0_base":
        return "gripper" if body.startswith("gripper0_") else "arm"
    if "table" in root:
        return "table"
    return next((part for part in ("floor", "wall") if geom.startswith(part) or root == part), "background")
