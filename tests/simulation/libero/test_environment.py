"""LIBERO's environments: LIBERO's own physics, pictures and judgement, and episodes that depend on a seed alone."""

import gc
import itertools
from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fathom.errors import UserError
from fathom.simulation.environment import Quality
from fathom.simulation.libero import world as worlds
from fathom.simulation.libero.assets import bddl_file, initial_states
from fathom.simulation.libero.environment import LiberoEnv, axis_angle
from fathom.simulation.libero.suite import LIBERO_SUITES
from fathom.simulation.libero.tasks import TASKS

pytestmark = [pytest.mark.libero, pytest.mark.slow, pytest.mark.usefixtures("libero")]

STILL = np.array([0, 0, 0, 0, 0, 0, -1], np.float32)
SPATIAL = TASKS["libero_spatial"]
EVERYTHING: dict[str, Any] = {"cameras": ("main", "wrist"), "image_size": 256, "depth": True, "segmentation": True}
ONE_OF_EACH = (
    ("libero_spatial", SPATIAL[0]),
    ("libero_object", "pick_up_the_milk_and_place_it_in_the_basket"),
    ("libero_goal", "turn_on_the_stove"),
    ("libero_10", "STUDY_SCENE1_pick_up_the_book_and_place_it_in_the_back_compartment_of_the_caddy"),
    ("libero_90", "KITCHEN_SCENE6_close_the_microwave"),
    ("libero_90", "LIVING_ROOM_SCENE2_pick_up_the_alphabet_soup_and_put_it_in_the_basket"),
)


def make(suite: str, task: str, **options: Any) -> LiberoEnv:
    return LiberoEnv(task, suite=suite, **options)


@pytest.fixture(scope="module")
def env(libero: None) -> Iterator[LiberoEnv]:
    """The bowl between plate and ramekin, as LIBERO looks, through both cameras."""
    made = make("libero_spatial", SPATIAL[0], **EVERYTHING, quality="official")
    yield made
    made.close()


@pytest.fixture(scope="module")
def official(libero: None) -> Iterator[Any]:
    """LIBERO's own environment of the same task."""
    yield make_official(has_offscreen_renderer=False, use_camera_obs=False)


def make_official(**options: Any) -> Any:
    worlds._modules()
    from libero.libero.envs.env_wrapper import ControlEnv

    return ControlEnv(str(bddl_file("libero_spatial", SPATIAL[0])), **options)


def start_officially(official: Any, state: int) -> Any:
    """As the public evaluations do, with the furniture drawn from the number of the state."""
    np.random.seed(10_000 + state)
    official.reset()
    official.set_init_state(initial_states("libero_spatial", SPATIAL[0])[state])
    for _ in range(10):
        observation, *_ = official.step(STILL.astype(float))
    return observation


def positions(env: LiberoEnv) -> np.ndarray:
    return env.world.sim.data.qpos.copy()


def some_actions(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, 7)).astype(np.float32)


# Against LIBERO ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suite", "task"), ONE_OF_EACH)
def test_one_episode_of_each_suite(suite: str, task: str) -> None:
    env = make(suite, task, cameras=("main", "wrist"), image_size=64, depth=True, segmentation=True)
    observed, info = env.reset(seed=0, options={"init_state": 7})
    assert env.observation_space.contains(observed) and not info["success"]
    for action in some_actions(8):
        observed, reward, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(observed)
        assert (reward, terminated, truncated, info["success"]) == (0.0, False, False, False)
    assert info["instruction"] == next(s for s in LIBERO_SUITES if s.name == suite).instructions[task]
    wanted = {name for name in env.world.obj_of_interest if name in env.segmentation_names}
    seen = {env.segmentation_names[label] for label in np.unique(observed["segmentation"]["main"])}
    assert wanted and wanted <= seen
    assert {"arm", "gripper"} <= seen and seen & {"table", "floor"}
    env.close()


def test_the_physics_are_liberos_to_the_last_digit(env: LiberoEnv, official: Any) -> None:
    env.restart(seed=3, init_state=1)  # leaves drawers, gripper and robot somewhere else
    for action in some_actions(15)[::-1]:
        env.advance(action)
    start_officially(official, 5)
    env.restart(seed=99, init_state=5)
    for action in some_actions(10):
        env.advance(action)
        official.step(action.astype(float))
    np.testing.assert_array_equal(positions(env), official.env.sim.data.qpos)
    np.testing.assert_array_equal(env.world.sim.model.body_pos, official.env.sim.model.body_pos)


def test_pictures_are_liberos_turned_by_180_degrees(env: LiberoEnv) -> None:
    official = make_official(camera_heights=256, camera_widths=256)
    handed_out = start_officially(official, 2)
    drawn_now = official.env._get_observations(force_update=True)
    official.close()
    del official
    gc.collect()  # robosuite's renderer frees what it finds in the OpenGL context that is current then: not ours
    env.restart(seed=0, init_state=2)
    images = env.observe()["images"]
    for camera, name in (("main", "agentview_image"), ("wrist", "robot0_eye_in_hand_image")):
        difference = np.abs(images[camera].astype(int) - drawn_now[name][::-1, ::-1])
        assert (difference.max(axis=-1) > 1).mean() < 1e-3, "an edge may fall to another pixel, and no more"
        # robosuite draws what it hands out some milliseconds before the end of a step
        assert np.abs(images[camera].astype(int) - handed_out[name][::-1, ::-1]).mean() < 0.2
        assert np.abs(images[camera].astype(int) - drawn_now[name][::-1]).mean() > 10  # left and right are swapped


def test_the_state_is_that_of_the_public_recipes(env: LiberoEnv, official: Any) -> None:
    start_officially(official, 4)
    env.restart(seed=0, init_state=4)
    for action in some_actions(10):
        env.advance(action)
        official.step(action.astype(float))
    observation = official.env._get_observations(force_update=True)
    state = env.state()
    assert state.shape == (8,) and state.dtype == np.float32
    np.testing.assert_allclose(state[:3], observation["robot0_eef_pos"], atol=1e-6)
    np.testing.assert_allclose(state[6:], observation["robot0_gripper_qpos"], atol=1e-6)
    turn = Rotation.from_rotvec(state[3:6]) * Rotation.from_quat(observation["robot0_eef_quat"]).inv()
    assert turn.magnitude() < 1e-5


def test_the_angle_is_not_shortened() -> None:
    half_turn_and_more = Rotation.from_rotvec([0.0, 0.0, 4.0]).as_quat(canonical=False)  # x, y, z, w with w < 0
    np.testing.assert_allclose(axis_angle(half_turn_and_more), [0, 0, 4.0], atol=1e-9)
    assert not axis_angle((0.0, 0.0, 0.0, 1.0)).any()


def test_liberos_own_check_says_when_a_task_is_solved() -> None:
    env = make("libero_object", "pick_up_the_milk_and_place_it_in_the_basket")
    env.restart(0)
    assert env.advance(STILL) == (0.0, False, False)
    data = env.world.sim.data
    basket = data.body_xpos[env.world.obj_body_id["basket_1"]]
    data.set_joint_qpos("milk_1_joint0", np.array([*basket[:2], basket[2] + 0.05, 1, 0, 0, 0]))
    assert env.advance(STILL)[:2] == (1.0, True)
    env.restart(0)
    assert env.advance(STILL) == (0.0, False, False)


# Episodes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suite", "task"),
    [
        ("libero_spatial", SPATIAL[4]),  # a bowl lies in a drawer of a cabinet that stands elsewhere in each layout
        ("libero_goal", "turn_on_the_stove"),
    ],
)
@pytest.mark.parametrize("init_state", [None, 3])
def test_a_seed_fixes_the_episode_whatever_ran_before(suite: str, task: str, init_state: int | None) -> None:
    env = make(suite, task)

    def episode(seed: int, init_state: int | None = init_state) -> np.ndarray:
        env.restart(seed, init_state)
        start = [positions(env), env.world.sim.model.body_pos.ravel().copy()]
        for action in some_actions(12):
            env.advance(action)
        return np.concatenate([*start, positions(env)])

    first = episode(5)
    episode(6, init_state=None)
    episode(8, init_state=9)
    np.testing.assert_array_equal(episode(5), first)
    if init_state is not None:
        np.testing.assert_array_equal(episode(55), first)
    env = make(suite, task)
    np.testing.assert_array_equal(episode(5), first)


def test_layouts_differ_and_nobody_elses_generator_is_touched() -> None:
    env = make("libero_object", TASKS["libero_object"][0])
    np.random.seed(123)
    expected = np.random.rand()
    np.random.seed(123)
    layouts = []
    for seed in range(3):
        env.restart(seed)
        layouts.append(positions(env)[9:])
    assert np.random.rand() == expected
    assert min(np.abs(a - b).max() for a, b in itertools.pairwise(layouts)) > 0.01


def test_an_episode_begins_at_rest_with_an_open_gripper(env: LiberoEnv) -> None:
    env.restart(seed=0, init_state=0)
    assert env.world.timestep == 10
    assert np.abs(env.world.sim.data.qvel).max() < 0.1
    np.testing.assert_allclose(env.state()[6:], [0.04, -0.04], atol=0.005)
    height = env.state()[2]
    for _ in range(5):
        env.advance(np.array([0, 0, 1, 0, 0, 0, 1], np.float32))
    assert env.state()[2] > height + 0.05 and env.state()[6] < 0.03  # up, and closing


def test_the_limit_counts_the_policys_actions_only() -> None:
    env = make("libero_spatial", SPATIAL[0])
    for seed in (0, 1):
        env.restart(seed)
        env.max_steps = 12
        assert [env.advance(STILL)[2] for _ in range(12)] == [False] * 11 + [True]
    assert make("libero_object", TASKS["libero_object"][0]).max_steps == 280


def test_a_recorded_state_that_is_none_is_told(env: LiberoEnv) -> None:
    for number in (-1, 50):
        with pytest.raises(UserError, match=rf"has the initial states 0 to 49, and no state {number}"):
            env.restart(0, init_state=number)


def test_the_suite_makes_its_environments_and_says_what_ran() -> None:
    suite = next(suite for suite in LIBERO_SUITES if suite.name == "libero_goal")
    suite.prepare()
    env = suite.make("turn_on_the_stove", seed=4, image_size=32)
    observed, _ = env.reset()
    assert list(observed) == ["images", "state"] and list(observed["images"]) == ["main"]
    assert suite.versions().keys() >= {"hf-libero", "robosuite", "mujoco", "libero-assets"}
    env.close()


# Depth and segmentation ----------------------------------------------------------------------------------------------


# Multisampling looks a fraction of a pixel beside the middle.
@pytest.mark.parametrize(("quality", "tolerance"), [("fast", 2e-4), ("official", 4e-3)])
def test_depth_is_the_tables_distance_along_the_optical_axis(quality: Quality, tolerance: float) -> None:
    env = make("libero_spatial", SPATIAL[0], **EVERYTHING, quality=quality)
    env.restart(seed=0, init_state=0)
    observed = env.observe()
    model, data = env.world.sim.model._model, env.world.sim.data._data
    table = model.geom("table_collision")
    top = data.geom_xpos[table.id][2] + table.size[2]
    for camera, name in (("main", "agentview"), ("wrist", "robot0_eye_in_hand")):
        number = model.camera(name).id
        position, axes = data.cam_xpos[number], data.cam_xmat[number].reshape(3, 3)
        slope = np.tan(np.deg2rad(model.cam_fovy[number]) / 2)
        middle = (np.arange(256) + 0.5) / 128 - 1
        u, v = np.meshgrid(-middle, -middle)  # left and right are swapped, rows count downwards
        rays = np.stack([u * slope, v * slope, -np.ones_like(u)], axis=-1) @ axes.T  # one metre along the axis
        expected = (top - position[2]) / rays[..., 2]
        on_table = observed["segmentation"][camera] == env.segmentation_names.index("table")
        assert on_table.mean() > 0.2
        error = np.abs(observed["depth"][camera] - expected)[on_table]
        assert np.quantile(error, 0.95) < tolerance, "only where the table's sides are seen may it differ"
    env.close()


def test_segmentation_follows_an_object(env: LiberoEnv) -> None:
    env.restart(seed=0, init_state=0)
    label = env.segmentation_names.index("plate_1")
    data = env.world.sim.data

    def column() -> float:
        return float(np.nonzero(env.observe()["segmentation"]["main"] == label)[1].mean())

    before = column()
    pose = data.get_joint_qpos("plate_1_joint0").copy()
    pose[1] += 0.1  # the camera looks at the robot, so that its right is the world's +y: left in a swapped picture
    data.set_joint_qpos("plate_1_joint0", pose)
    mujoco.mj_forward(env.world.sim.model._model, data._data)
    assert column() < before - 15
