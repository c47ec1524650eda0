"""Meta-World's 50 tasks as gymnasium environments that show what a robot would see.

Two departures from the official protocol, both on purpose:

- an action is repeated for ``action_repeat`` = 2 simulator steps (40 Hz instead of 80 Hz), so that demonstrations and
  roll-outs are half as long; the scripted experts still succeed. The limit stays 500 simulator steps, i.e. 250 actions;
- ``quality="fast"`` hides decorative site markers, and goal markers wherever the furniture itself shows the goal.
  Otherwise a coloured dot would tell opening the faucet from closing it, and the instruction would decide nothing.
  The marker stays where the goal is drawn at random apart from the objects (reach, push, ...).
"""

import warnings
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from fathom.simulation.metaworld_tasks import ACTION_REPEAT, INSTRUCTIONS, SIMULATOR_HZ, SIMULATOR_STEPS
from fathom.simulation.rendering import Camera, Quality, Renderer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gymnasium tells of its own deprecations while metaworld registers its tasks
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

Array = NDArray[Any]
Observed = dict[str, Any]

NEAR = Camera.look_at("main", position=(0.55, 0.17, 0.53), target=(0.01, 0.65, 0.11), fovy=47.0)
"""The workspace fills the picture: a handle is ten pixels wide at 128x128, and the arm rarely hides it."""

OFFICIAL = Camera("main", (0.75, 0.075, 0.7), (0.76536295, 0.43493704, 0.26266734, 0.39503823), 60.0)
"""LeRobot's view of Meta-World: ``corner2`` moved nearer and turned by 180 degrees about its axis to be upright."""

COMMON_LABELS = ("background", "floor", "table", "wall", "arm", "gripper")


class MetaWorldEnv(gymnasium.Env[Observed, Array]):
    """One Meta-World task.

    Observation: ``images: {"main": uint8 (H, W, 3)}``, ``state: float32 (4,)`` = hand x, y, z in metres and gripper
    opening in 0..1, ``depth: {"main": float32 (H, W)}`` in metres along the optical axis (the sky has the far
    plane's) and ``segmentation: {"main": uint8 (H, W)}`` (labels of :attr:`segmentation_names`) where asked for. Never
    the goal or where objects are. Action: (4,) in [-1, 1]: a step of the hand (1 = one centimetre per simulator step)
    and the gripper's effort.

    ``info["success"]`` is true on the step that solves the task (then ``terminated``); ``info["instruction"]`` is the
    sentence. Stepping on after success is allowed, up to the limit.

    Args:
        task: one of :data:`~fathom.simulation.metaworld_tasks.INSTRUCTIONS`.
        seed: the layout of the first reset; a reset without a seed takes the next number.
        spread: the object stands within this many metres in x of its range's middle; ``None`` is Meta-World's own
            range, mostly 0.1, in which a policy that sees nothing solves many tasks.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": SIMULATOR_HZ // ACTION_REPEAT}  # noqa: RUF012 - gymnasium's own shape

    def __init__(
        self,
        task: str,
        *,
        seed: int = 0,
        image_size: int = 128,
        depth: bool = False,
        segmentation: bool = False,
        action_repeat: int = ACTION_REPEAT,
        quality: Quality = "fast",
        camera: Camera | None = None,
        spread: float | None = None,
    ) -> None:
        self.task = task
        self.instruction = INSTRUCTIONS[task]
        self.action_repeat = action_repeat
        self.fps = SIMULATOR_HZ / action_repeat
        self.render_mode = "rgb_array"
        self._next_seed = seed
        self._image_size = image_size
        self._depth = depth
        self._segmentation = segmentation
        self._quality: Quality = quality
        self._camera = camera or (NEAR if quality == "fast" else OFFICIAL)
        self._world = _world_class(task)(seed=seed)
        self._world._freeze_rand_vec = False  # a new layout at each reset,
        self._world.seeded_rand_vec = True  # drawn from the generator that `seed` sets
        if spread is not None:
            _widen(self._world, spread)
        if quality == "fast":
            _hide_needless_markers(self._world)
        self._renderer: Renderer | None = None  # made when the first picture is wanted
        self.segmentation_names, self._label_of_geom = _instances(self._world.model)
        self._privileged: Array = np.zeros(39)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(self._spaces())

    @property
    def max_steps(self) -> int:
        """Actions in an episode before it is truncated."""
        return -(-SIMULATOR_STEPS // self.action_repeat)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observed, dict[str, Any]]:
        """Start the episode that ``seed`` fixes: layout, goal and everything that follows from the actions."""
        info = self.restart(self._next_seed if seed is None else seed)
        return self.observe(), info

    def step(self, action: Array) -> tuple[Observed, float, bool, bool, dict[str, Any]]:
        """Act once and look. ``terminated`` means solved, ``truncated`` out of time."""
        reward, success, truncated = self.advance(action)
        return self.observe(), reward, success, truncated, self._info(success)

    def step_chunk(self, actions: Array) -> tuple[Observed, float, bool, bool, dict[str, Any]]:
        """Act (H, 4) actions and look once, at the end; stops early on success or at the limit.

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

    def restart(self, seed: int) -> dict[str, Any]:
        """:meth:`reset` without looking."""
        self._next_seed = seed + 1
        self._world.seed(seed)
        self._world.reset()
        # Meta-World moves things after its last forward pass: without this, the first picture (and the expert's first
        # look) would still show where they were before.
        mujoco.mj_forward(self._world.model, self._world.data)
        self._world._prev_obs = self._world._get_curr_obs_combined_no_goal()
        self._privileged = self._world._get_obs()
        return self._info(success=False)

    def advance(self, action: Array) -> tuple[float, bool, bool]:
        """Act once without looking: (reward, success, truncated).

        Raises:
            ValueError: the action is not four finite numbers.
        """
        action = np.asarray(action, np.float32)
        if action.shape != (4,) or not np.isfinite(action).all():
            raise ValueError(f"an action must be 4 finite numbers, not {action}")
        action = np.clip(action, -1.0, 1.0)
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
            self._renderer = Renderer(self._world.model, self._image_size, self._camera, self._quality)
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

    def render(self) -> Array:  # type: ignore[override]
        """uint8 (H, W, 3)."""
        image: Array = self.observe()["images"]["main"]
        return image

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _info(self, success: bool) -> dict[str, Any]:
        return {"success": success, "instruction": self.instruction}

    def _spaces(self) -> dict[str, gymnasium.Space[Any]]:
        box, size = gymnasium.spaces.Box, self._image_size
        spaces: dict[str, gymnasium.Space[Any]] = {
            "images": gymnasium.spaces.Dict({"main": box(0, 255, (size, size, 3), np.uint8)}),
            "state": box(-np.inf, np.inf, (4,), np.float32),
        }
        if self._depth:
            spaces["depth"] = gymnasium.spaces.Dict({"main": box(0.0, np.inf, (size, size), np.float32)})
        if self._segmentation:
            highest = len(self.segmentation_names) - 1
            spaces["segmentation"] = gymnasium.spaces.Dict({"main": box(0, highest, (size, size), np.uint8)})
        return spaces


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
        name = "gripper" if _hangs_on(model, body, "hand") else fixed.get(root, root or "object")
        if name not in names:
            names.append(name)
        labels[geom] = names.index(name)
    return tuple(names), labels


def _hangs_on(model: mujoco.MjModel, body: int, ancestor: str) -> bool:
    while body != 0 and model.body(body).name != ancestor:
        body = int(model.body_parentid[body])
    return body != 0
