"""LIBERO's scripted experts: sound geometry, and tasks solved, also when they are disturbed."""

from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fathom.errors import UserError
from fathom.simulation.libero.expert_grasp import WIDEST, Boxes, is_under, plan_grasp, top_between, turn_between
from fathom.simulation.libero.expert_skills import from_above
from fathom.simulation.libero.suite import LIBERO_SUITES
from fathom.simulation.noise import ExpertNoise

Array = np.ndarray[Any, Any]
SHOULDER = np.array([-0.6, 0.0, 0.0])
HAND, ALONG_Y = np.array([-0.1, 0.0, 0.3]), np.array([0.0, 1.0, 0.0])
NOTHING = Boxes(np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros((0, 3)))


def upright(*boxes: tuple[float, ...], turn: float = 0.0) -> Boxes:
    """Boxes of (x, y, z, half x, half y, half z), each turned about its own vertical axis."""
    rows = np.array(boxes)
    axes = Rotation.from_rotvec([0, 0, turn]).as_matrix()
    return Boxes(rows[:, :3], np.repeat(axes[None], len(rows), 0), rows[:, 3:])


def bowl(radius: float) -> Boxes:
    """A round wall of 24 thin boxes, five centimetres high."""
    angles = np.arange(24) * np.pi / 12
    middles = np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(24, 0.025)], axis=1)
    axes = Rotation.from_rotvec(angles[:, None] * [0, 0, 1]).as_matrix()
    return Boxes(middles, axes, np.tile([0.001, 0.01, 0.025], (24, 1)))


def grasp_of(thing: Boxes, obstacles: Boxes = NOTHING, carry: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Any:
    return plan_grasp(thing, obstacles, HAND, ALONG_Y, np.array(carry), SHOULDER)


@pytest.mark.parametrize("seed", range(5))
def test_a_turn_takes_one_rotation_to_the_other(seed: int) -> None:
    present, wanted = Rotation.random(2, rng=seed).as_matrix()
    turn = Rotation.from_rotvec(turn_between(present, wanted)).as_matrix()
    np.testing.assert_allclose(turn @ present, wanted, atol=1e-9)


def test_boxes_know_their_bounds_and_distances() -> None:
    rotation = Rotation.from_rotvec([0, 0, np.pi / 4]).as_matrix()
    diamond = Boxes(np.array([[1.0, 0.0, 0.0]]), rotation[None], np.array([[1.0, 1.0, 0.5]]))
    low, high = diamond.bounds()
    np.testing.assert_allclose(low[0], [1 - np.sqrt(2), -np.sqrt(2), -0.5])
    np.testing.assert_allclose(high[0], [1 + np.sqrt(2), np.sqrt(2), 0.5])
    np.testing.assert_allclose(diamond.corners().reshape(-1, 3).max(0), high[0])
    assert diamond.distance(np.array([1.0, 0.3, 0.0])) == 0.0
    assert diamond.distance(np.array([1.0, 0.0, 2.0])) == pytest.approx(1.5)
    assert diamond.distance(np.array([2.0, 1.0, 0.0])) == pytest.approx(np.sqrt(2) - 1)
    assert NOTHING.distance(np.zeros(3)) == np.inf


@pytest.mark.parametrize("turn", [0.0, 0.5, 1.2, -0.8])
def test_a_box_is_taken_across_its_short_side(turn: float) -> None:
    grasp = grasp_of(upright((0.1, 0.2, 0.01, 0.04, 0.02, 0.01), turn=turn))
    short = Rotation.from_rotvec([0, 0, turn]).apply([0, 1, 0])
    assert abs(grasp.axis @ short) > np.cos(np.pi / 24)
    np.testing.assert_allclose(grasp.point[:2], [0.1, 0.2], atol=1e-9)
    assert 0.0 < grasp.point[2] < 0.02


def test_what_is_too_wide_is_taken_by_the_rim() -> None:
    radius = 0.047
    assert 2 * radius > WIDEST
    grasp = grasp_of(bowl(radius))
    fingers = [grasp.point + sign * 0.038 * grasp.axis for sign in (-1, 1)]
    assert sorted(float(np.linalg.norm(finger[:2])) > radius for finger in fingers) == [False, True]
    assert 0.0 < grasp.point[2] < 0.05


def test_the_fingers_keep_away_from_neighbours() -> None:
    can = upright((0.0, 0.0, 0.05, 0.025, 0.025, 0.05))
    assert abs(grasp_of(can).axis @ ALONG_Y) > 0.9
    walls = upright((0.0, 0.06, 0.05, 0.05, 0.01, 0.05), (0.0, -0.06, 0.05, 0.05, 0.01, 0.05))
    assert abs(grasp_of(can, walls).axis @ ALONG_Y) < 0.5


def test_a_bowl_that_goes_far_is_taken_on_the_near_side() -> None:
    assert grasp_of(bowl(0.047), carry=(0.16, 0.0, 0.0)).point[0] < -0.02


def test_only_what_is_near_the_way_is_in_the_way() -> None:
    boxes = upright((0.5, 0.0, 0.1, 0.05, 0.05, 0.1), (0.5, 0.5, 0.3, 0.05, 0.05, 0.3))
    start, end = np.zeros(3), np.array([1.0, 0.0, 0.0])
    assert top_between(boxes, start, end, 0.05) == pytest.approx(0.2)
    assert top_between(boxes, start, end, 0.5) == pytest.approx(0.6)
    assert top_between(boxes, start, end / 4, 0.05) == -np.inf


def test_what_is_under_a_drawer_cannot_be_lifted() -> None:
    thing = upright((0.0, 0.0, 0.05, 0.05, 0.05, 0.05))
    assert is_under(thing, upright((0.1, 0.0, 0.2, 0.06, 0.06, 0.02)), 0.0)
    assert not is_under(thing, upright((0.2, 0.0, 0.2, 0.06, 0.06, 0.02)), 0.0)
    assert not is_under(thing, upright((0.0, 0.0, -0.02, 0.5, 0.5, 0.02)), 0.0)
    assert not is_under(thing, NOTHING, 0.0)


def test_a_target_is_reached_from_above() -> None:
    hand, target, clear = np.array([0.0, 0.0, 0.02]), np.array([0.3, 0.1, 0.05]), 0.2
    for _ in range(200):
        hand = hand + np.clip(from_above(hand, target, clear, 0.006) - hand, -0.01, 0.01)
        aside = np.linalg.norm((target - hand)[:2])
        if 0.05 < aside < 0.25:
            assert hand[2] > clear - 0.05
    np.testing.assert_allclose(hand, target, atol=2e-3)


# With the simulator. -------------------------------------------------------------------------------------------------

libero = [pytest.mark.libero, pytest.mark.slow, pytest.mark.usefixtures("libero")]
SUITES = {suite.name: suite for suite in LIBERO_SUITES}


def solved(suite: str, task: int, state: int, noise: float = 0.0, let_go: range = range(0)) -> bool:
    """Whether the expert solves an episode within the suite's limit; it is made to open its fingers in ``let_go``."""
    env = SUITES[suite].make(SUITES[suite].task(task))
    env.restart(state, state)
    expert = SUITES[suite].expert(env)
    offsets = ExpertNoise(std=noise).offsets(env.max_steps, 7, np.random.default_rng(state)) if noise else None
    success = truncated = False
    step = 0
    while not (success or truncated):
        action = expert()
        assert action.shape == (7,) and np.abs(action).max() <= 1
        if offsets is not None:
            action = action + offsets[step]
        if step in let_go:
            action[6] = -1
        _, success, truncated = env.advance(action)
        step += 1
    env.close()
    return success


@pytest.mark.parametrize(
    ("suite", "task"),
    [
        ("libero_object", 1),  # lies flat on the floor
        ("libero_object", 7),  # stands high
        ("libero_spatial", 4),  # in a drawer
        ("libero_spatial", 9),  # on a cabinet, at the end of the arm's reach
        ("libero_goal", 0),  # opens a drawer
        ("libero_goal", 3),  # opens a drawer and fills it
        ("libero_goal", 5),  # drags a plate
        ("libero_goal", 7),  # turns a knob
        ("libero_goal", 9),  # carries a bottle
    ],
)
class TestTasks:
    pytestmark = libero

    def test_is_solved_from_official_states(self, suite: str, task: int) -> None:
        assert sum(solved(suite, task, state) for state in range(3)) >= 2


class TestDisturbed:
    pytestmark = libero

    def test_noise_does_not_keep_it_from_success(self) -> None:
        assert sum(solved("libero_object", task, 0, noise=0.4) for task in range(5)) >= 3

    def test_what_is_dropped_is_taken_up_again(self) -> None:
        assert solved("libero_object", 3, 0, let_go=range(38, 52))

    def test_a_goal_beyond_its_skills_is_the_users_mistake(self) -> None:
        env = SUITES["libero_90"].make("KITCHEN_SCENE6_close_the_microwave")
        env.restart(0)
        with pytest.raises(UserError, match="close"):
            SUITES["libero_90"].expert(env)
        env.close()
