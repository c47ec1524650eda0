"""Meta-World's 50 tasks as gymnasium environments that show what a robot would see.

Two departures from the official protocol, both on purpose:

- an action is repeated for ``action_repeat`` = 2 simulator steps (40 Hz instead of 80 Hz), so that demonstrations and
  roll-outs are half as long; the scripted experts still succeed. The limit stays 500 simulator steps, i.e. 250 actions;
- ``quality="fast"`` hides decorative site markers, and goal markers wherever the furniture itself shows the goal.
  Otherwise a coloured dot would tell opening the faucet from closing it, and the instruction would decide nothing.
  The marker stays where the goal is drawn at random apart from the objects (reach, push, ...).
"""

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np

from fathom.simulation.environment import Array, Environment, Observed, Quality
from fathom.simulation.metaworld.tasks import ACTION_REPEAT, INSTRUCTIONS, SIMULATOR_HZ, SIMULATOR_STEPS
from fathom.simulation.perturbation import Perturbation
from fathom.simulation.perturber import Perturber
from fathom.simulation.rendering import Camera, Renderer
from fathom.simulation.staging import Stage

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gymnasium tells of its own deprecations while metaworld registers its tasks
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

NEAR = Camera.look_at("main", position=(0.55, 0.17, 0.53), target=(0.01, 0.65, 0.11), fovy=47.0)
"""The workspace fills the picture: a handle is ten pixels wide at 128x128, and the arm rarely hides it."""

OFFICIAL = Camera("main", (0.75, 0.075, 0.7), (0.76536295, 0.43493704, 0.26266734, 0.39503823), 60.0)
"""LeRobot's view of Meta-World: ``corner2`` moved nearer and turned by 180 degrees about its axis to be upright."""

WORKSPACE = ((-0.2, 0.4, 0.0), (0.2, 0.9, 0.2))
"""Two corners, in metres: in between are the objects and the goals of all tasks."""

COMMON_LABELS = ("background", "floor", "table", "wall", "arm", "gripper")


class MetaWorldEnv(Environment):
    """One Meta-World task.

    Its state is hand x, y, z in metres and the gripper's opening in 0..1; in its depth the sky has the far plane's. An
    action (4,) in [-1, 1] is a step of the hand (1 = one centimetre per simulator step) and the gripper's effort.

    Args:
        task: one of :data:`~fathom.simulation.metaworld.tasks.INSTRUCTIONS`.
        spread: the object stands within this many metres in x of its range's middle; ``None`` is Meta-World's own
            range, mostly 0.1, in which a policy that sees nothing solves many tasks.

    See :class:`~fathom.simulation.environment.Environment` for the rest.
    """

    main_camera: Camera

    def __init__(
        self,
        task: str,
        *,
        seed: int = 0,
        cameras: Sequence[str] = ("main",),
        image_size: int = 128,
        depth: bool = False,
        segmentation: bool = False,
        action_repeat: int = ACTION_REPEAT,
        quality: Quality = "fast",
        camera: Camera | None = None,
        spread: float | None = None,
        perturbation: Perturbation | None = None,
    ) -> None:
        super().__init__(
            task=task,
            instruction=INSTRUCTIONS[task],
            fps=SIMULATOR_HZ / action_repeat,
            max_steps=-(-SIMULATOR_STEPS // action_repeat),
            cameras=cameras,
            image_size=image_size,
            depth=depth,
            segmentation=segmentation,
            state_width=4,
            action_low=(-1.0,) * 4,
            action_high=(1.0,) * 4,
            seed=seed,
        )
        self.action_repeat = action_repeat
        self._quality: Quality = quality
        self.main_camera = camera or (NEAR if quality == "fast" else OFFICIAL)
        self._world = _world_class(task)(seed=seed)
        self._world._freeze_rand_vec = False  # a new layout at each reset,
        self._world.seeded_rand_vec = True  # drawn from the generator that `seed` sets
        if spread is not None:
            _widen(self._world, spread)
        if quality == "fast":
            _hide_needless_markers(self._world)
        self._renderer: Renderer | None = None  # made when the first picture is wanted
        self.segmentation_names, self._label_of_geom = _instances(self._world.model)
        self._perturber = None
        if perturbation is not None:
            stage = Stage(self._geoms("table"), self._geoms("floor", "wall"), *WORKSPACE)
            self._perturber = Perturber(self._world.model, stage, perturbation, [self.main_camera])
        self._privileged: Array = np.zeros(39)

    def restart(self, seed: int, init_state: int | None = None) -> None:
        """Start the episode that ``seed`` fixes; Meta-World has no recorded initial states."""
        self._world.seed(seed)
        self._world.reset()
        # Meta-World moves things after its last forward pass: without this, the first picture (and the expert's first
        # look) would still show where they were before.
        mujoco.mj_forward(self._world.model, self._world.data)
        self._world._prev_obs = self._world._get_curr_obs_combined_no_goal()
        self._privileged = self._world._get_obs()
        if self._perturber is not None:
            self._perturber.restart(seed, self._world.data)

    def act(self, action: Array) -> tuple[float, bool, bool]:
        """Act once without looking: (reward, success, truncated)."""
        total, success, truncated = 0.0, False, False
        for _ in range(self.action_repeat):
            self._privileged, reward, _, truncated, info = self._world.step(action)
            total += float(reward)
            success = success or bool(info["success"])
            if truncated:
                break
        return total, success, truncated

    def observe(self) -> Observed:
        """What the robot sees now."""
        if self._renderer is None:
            self._renderer = Renderer(
                self._world.model, self.image_size, self.main_camera, self._quality, self._perturber
            )
        picture = self._renderer.render(self._world.data, depth=self._depth, segmentation=self._segmentation)
        observed: Observed = {"images": {"main": picture.rgb}, "state": self.state()}
        if picture.depth is not None:
            observed["depth"] = {"main": picture.depth}
        if picture.segmentation is not None:
            # id -1 (the sky) reads the extra last entry, which is 0
            observed["segmentation"] = {"main": self._label_of_geom[picture.segmentation]}
        return observed

    def state(self) -> Array:
        """Proprio, float32 (4,): hand x, y, z in metres, gripper opening in 0..1."""
        return self._privileged[:4].astype(np.float32)

    def privileged(self) -> Array:
        """Meta-World's own observation, float64 (39,): object and goal positions, for the scripted experts only."""
        return self._privileged

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _geoms(self, *names: str) -> tuple[int, ...]:
        """The geoms that have one of these labels."""
        labels = [self.segmentation_names.index(name) for name in names]
        return tuple(int(geom) for geom in np.nonzero(np.isin(self._label_of_geom[:-1], labels))[0])


def _world_class(task: str) -> Any:
    return ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-v3-goal-observable"]


def _widen(world: Any, spread: float) -> None:
    """Draw the object's x from a range of this half-width; see the class."""
    space = world._random_reset_space
    low, high = space.low.copy(), space.high.copy()
    middle = (low[0] + high[0]) / 2
    low[0], high[0] = middle - spread, middle + spread
    world._random_reset_space = gymnasium.spaces.Box(low, high, dtype=space.dtype)


def _hide_needless_markers(world: Any) -> None:
    """Move site markers to a group that is not drawn; see the module's docstring."""
    goal_is_separate = world._random_reset_space.shape[0] == 6  # (object, goal) instead of object alone
    kept = {"goal", "mug_goal"} if goal_is_separate else set()
    for index in range(world.model.nsite):
        if world.model.site(index).name not in kept:
            world.model.site_group[index] = mujoco.mjNGROUP - 1


def _instances(model: mujoco.MjModel) -> tuple[tuple[str, ...], Array]:
    """Names by label, and the label of each geom id (with one more entry, 0, for id -1).

    An object is a body that stands in the world with all that hangs on it; the robot is parted into arm and gripper.
    """
    fixed = {"world": "floor", "tablelink": "table", "RetainingWall": "wall", "base": "arm", "mocap": "background"}
    names = list(COMMON_LABELS)
    labels = np.zeros(model.ngeom + 1, np.uint8)
    for geom in range(model.ngeom):
        body = int(model.geom_bodyid[geom])
        root = model.body(model.body_rootid[body]).name
        unnamed = "object" if model.body_weldid[body] else "table"  # what cannot move: the top of pick-out-of-hole's
        name = "gripper" if _hangs_on(model, body, "hand") else fixed.get(root, root or unnamed)
        if name not in names:
            names.append(name)
        labels[geom] = names.index(name)
    return tuple(names), labels


def _hangs_on(model: mujoco.MjModel, body: int, ancestor: str) -> bool:
    while body != 0 and model.body(body).name != ancestor:
        body = int(model.body_parentid[body])
    return body != 0
