"""The four WidowX tasks: SIMPLER's layouts, episodes that depend on a seed alone, pictures, and experts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fathom.simulation.simpler.suite import SimplerWidowX
from fathom.simulation.simpler.tasks import WIDOWX_TASKS

pytestmark = [pytest.mark.simpler, pytest.mark.slow, pytest.mark.usefixtures("simpler")]

SUITE = SimplerWidowX()
GOLDEN = Path(__file__).parents[2] / "golden"
CARROT = "widowx_carrot_on_plate"


def make(task: str, **options: Any) -> Any:
    return SUITE.make(task, image_size=96, depth=True, segmentation=True, **options)


@pytest.fixture(scope="module", params=WIDOWX_TASKS)
def env(request: pytest.FixtureRequest, simpler: None) -> Iterator[Any]:
    made = make(request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def carrot(simpler: None) -> Iterator[Any]:
    made = make(CARROT)
    yield made
    made.close()


def wander(env: Any, steps: int = 6) -> np.ndarray:
    rng = np.random.default_rng(0)
    path = []
    for _ in range(steps):
        env.advance(np.array([*rng.uniform(-0.03, 0.03, 3), *rng.uniform(-0.1, 0.1, 3), rng.random()]))
        path.append([*env.state(), *env.source(), *env.target()])
    return np.array(path)


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(one[kind]["main"], other[kind]["main"]) for kind in ("images", "depth", "segmentation"))


def test_it_looks_as_it_says(env: Any) -> None:
    observed, info = env.reset(seed=0)
    assert observed in env.observation_space
    assert info == {"success": False, "instruction": WIDOWX_TASKS[env.task].instruction}
    labels = observed["segmentation"]["main"]
    seen = {env.segmentation_names[label] for label in np.unique(labels)}
    assert {WIDOWX_TASKS[env.task].source, WIDOWX_TASKS[env.task].target, "gripper"} <= seen
    depth = observed["depth"]["main"]
    assert 0.2 < depth.min() < depth.max() < 2.0
    gripper, thing = (
        depth[labels == env.segmentation_names.index(name)].mean() for name in ("gripper", labels_of(env))
    )
    assert gripper < thing  # the hand is above the thing, and the camera above both


def labels_of(env: Any) -> str:
    return WIDOWX_TASKS[env.task].source


def test_an_episode_depends_on_its_seed_alone(env: Any) -> None:
    first, path = env.reset(seed=3)[0], wander(env)
    wander(make_low(env))  # leave the arm in the way
    again, same_path = env.reset(seed=3)[0], wander(env)
    np.testing.assert_array_equal(path, same_path)
    assert same(first, again)
    assert not same(first, env.reset(seed=4)[0])


def make_low(env: Any) -> Any:
    """``env`` in an episode in which the arm is down and closed."""
    env.restart(9)
    for _ in range(5):
        env.advance(np.array([0, 0, -0.03, 0, 0, 0, 0.0]))
    return env


def test_initial_states_are_simplers_grid(env: Any) -> None:
    starts = []
    for number in range(SUITE.initial_states):
        env.restart(number, number)
        starts.append(np.concatenate([env.source(), env.target()]))
    assert len(np.unique(np.round(starts, 3), axis=0)) == SUITE.initial_states
    env.restart(77, 5)
    np.testing.assert_array_equal(np.concatenate([env.source(), env.target()]), starts[5])  # whatever the seed


def test_episode_3_of_the_carrot_is_where_it_was_recorded(carrot: Any) -> None:
    """From the original SIMPLER: object poses in the base frame within 2 mm, and the same hand and joints."""
    recorded = json.loads((GOLDEN / "simpler_interface.json").read_text())[CARROT]
    values = np.load(GOLDEN / "simpler_interface.npz")
    carrot.restart(0, 3)
    for name, pose in (("source", carrot.source()), ("target", carrot.target())):
        text = recorded["reset_info"][f"episode_{name}_obj_init_pose_wrt_robot_base"]
        place = np.array(json.loads(text.removeprefix("Pose(").split("], [")[0] + "]"))
        np.testing.assert_allclose(pose[:3], place, atol=2e-3)
    hand = values[f"{CARROT}/0/before/agent/controller/arm/target_pose"]
    np.testing.assert_allclose(carrot.hand(), hand, atol=1e-3)
    np.testing.assert_allclose(
        carrot.world.agent.robot.get_qpos()[0].numpy(), values[f"{CARROT}/0/before/agent/qpos"], atol=1e-4
    )
    assert (carrot.instruction, carrot.max_steps) == (recorded["instruction"], recorded["max_episode_steps"])


def test_the_hand_goes_where_it_is_told(carrot: Any) -> None:
    """Position and rotation, in the base frame; the arm needs a while to follow."""
    carrot.restart(0, 0)
    before = carrot.state()
    carrot.advance(np.array([0.02, -0.01, 0.03, 0.0, 0.0, 0.3, 1.0]))
    for _ in range(10):
        carrot.advance(np.array([0, 0, 0, 0, 0, 0, 1.0]))
    moved = carrot.state() - before
    np.testing.assert_allclose(moved[:3], [0.02, -0.01, 0.03], atol=2e-3)
    assert moved[5] == pytest.approx(0.3, abs=0.02)
    for _ in range(4):
        carrot.advance(np.array([0, 0, 0, 0, 0, 0, 0.0]))
    assert carrot.state()[6] < 0.05


def test_two_scenes_side_by_side_keep_their_own_background(carrot: Any) -> None:
    """ManiSkill itself keeps photographs on the class: the second scene's would show behind the first."""
    before = carrot.reset(seed=1)[0]
    other = make("widowx_put_eggplant_in_basket")
    other.reset(seed=1)
    assert same(before, carrot.reset(seed=1)[0])
    other.close()


def test_both_looks_show_the_same_view(carrot: Any) -> None:
    official = make(CARROT, quality="official")
    fast, slow = carrot.reset(seed=2)[0], official.reset(seed=2)[0]
    agreement = (fast["segmentation"]["main"] == slow["segmentation"]["main"]).mean()
    assert agreement > 0.99
    edges = np.abs(fast["depth"]["main"] - slow["depth"]["main"])
    assert np.median(edges) <= 0.002
    assert np.abs(fast["images"]["main"].astype(int) - slow["images"]["main"]).mean() < 6
    official.close()


def test_the_expert_solves_it(env: Any) -> None:
    """From initial states and from a varied layout, with the noise that demonstrations are recorded with."""
    solved = 0
    for seed, init_state in ((0, 0), (1, 13), (2, None)):
        env.restart(seed, init_state)
        expert = SUITE.expert(env)
        offsets = SUITE.noise.offsets(env.max_steps, env.action_width, np.random.default_rng(seed))
        for offset in offsets:
            action = expert()
            assert env.action_space.contains(action)
            assert np.linalg.norm(action[:3]) < 0.031
            _, success, truncated = env.advance(action + offset)
            if success or truncated:
                solved += success
                break
    assert solved == 3


def test_judged_at_the_end_the_end_decides(simpler: None) -> None:
    env = make(CARROT, judged="at_the_end")
    env.restart(0, 0)
    expert = SUITE.expert(env)
    outcomes = [env.advance(expert())[1:] for _ in range(env.max_steps)]
    assert outcomes[:-1] == [(False, False)] * (env.max_steps - 1)
    assert outcomes[-1] == (True, True)
    env.close()


def test_versions_say_which_assets_these_are(simpler: None) -> None:
    assert SUITE.versions()["maniskill-assets"] in ("official", "stand-ins for some visuals")
