"""Conventions against SciPy's rotations and what the original SIMPLER was recorded to do."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fathom.simulation.simpler import conventions

RECORDING = np.load(Path(__file__).parents[2] / "golden" / "simpler_interface.npz")
WIDOWX, GOOGLE = "widowx_carrot_on_plate", "google_robot_pick_coke_can"

angles = st.tuples(*[st.floats(-1.5, 1.5)] * 3).map(np.array)


def rotation(quaternion: np.ndarray) -> Rotation:
    return Rotation.from_quat(np.roll(quaternion, -1))


@given(angles)
def test_roll_pitch_yaw_are_turns_about_fixed_axes(rpy: np.ndarray) -> None:
    expected = Rotation.from_euler("xyz", rpy)
    np.testing.assert_allclose(conventions.matrix_of_rpy(rpy), expected.as_matrix(), atol=1e-12)
    np.testing.assert_allclose(conventions.rpy_of_matrix(expected.as_matrix()), rpy, atol=1e-9)
    np.testing.assert_allclose(
        conventions.rotation_vector_of_matrix(expected.as_matrix()), expected.as_rotvec(), atol=1e-7
    )
    quaternion = np.roll(expected.as_quat(), 1)
    np.testing.assert_allclose(conventions.matrix_of_quaternion(3 * quaternion), expected.as_matrix(), atol=1e-12)


@given(angles)
def test_both_simulators_are_told_the_same_rotation(rpy: np.ndarray) -> None:
    action = np.array([0.01, -0.02, 0.03, *rpy, 1.0])
    wanted = Rotation.from_euler("xyz", rpy).as_matrix()
    maniskill, simpler = conventions.widowx_to_maniskill(action), conventions.widowx_to_simpler(action)
    # ManiSkill 3 multiplies turns about x, y and z in this order
    np.testing.assert_allclose(Rotation.from_euler("XYZ", maniskill[3:6]).as_matrix(), wanted, atol=1e-6)
    np.testing.assert_allclose(Rotation.from_rotvec(simpler[3:6]).as_matrix(), wanted, atol=1e-6)
    np.testing.assert_allclose([maniskill[:3], simpler[:3]], [action[:3]] * 2, rtol=1e-6)


@pytest.mark.parametrize(("wish", "told"), [(1.0, 1.0), (0.51, 1.0), (0.5, -1.0), (0.0, -1.0)])
def test_the_widowx_gripper_is_open_or_closed(wish: float, told: float) -> None:
    action = np.array([0, 0, 0, 0, 0, 0, wish])
    assert conventions.widowx_to_maniskill(action)[6] == told == conventions.widowx_to_simpler(action)[6]


@pytest.mark.parametrize("step", range(3, 8))
def test_the_recorded_widowx_turned_as_told(step: int) -> None:
    """SIMPLER's rotation is an axis times an angle in the base frame, applied before the present one."""
    told = RECORDING[f"{WIDOWX}/{step}/action"].astype(float)
    before = rotation(RECORDING[f"{WIDOWX}/{step}/before/agent/controller/arm/target_pose"][3:])
    after = rotation(RECORDING[f"{WIDOWX}/{step}/after/agent/controller/arm/target_pose"][3:])
    turn = (after * before.inv()).as_matrix()
    action = np.array([*told[:3], *conventions.rpy_of_matrix(turn), 1.0])
    np.testing.assert_allclose(conventions.widowx_to_simpler(action)[3:6], told[3:6], atol=1e-6)


def test_the_recorded_widowx_starts_nearly_pointing_down() -> None:
    hand = RECORDING[f"{WIDOWX}/0/before/agent/controller/arm/target_pose"]
    fingers = RECORDING[f"{WIDOWX}/0/before/agent/qpos"][-2:]
    state = conventions.widowx_state(hand, conventions.widowx_openness(fingers))
    relative = rotation(hand[3:]) * Rotation.from_matrix(conventions.POINTING_DOWN).inv()
    np.testing.assert_allclose(state[:3], hand[:3])
    np.testing.assert_allclose(Rotation.from_euler("xyz", state[3:6]).as_matrix(), relative.as_matrix(), atol=1e-6)
    assert np.abs(state[3:6]).max() < 0.1  # radians: BridgeData's episodes start so
    assert state[6] == 1.0


def test_the_recorded_controller_and_the_state_speak_of_one_hand() -> None:
    """SIMPLER's tool pose in the world, taken to the base frame, is the pose that the state is made of."""
    base, tool = (RECORDING[f"{WIDOWX}/0/before/{name}"] for name in ("agent/base_pose", "extra/tcp_pose"))
    hand = RECORDING[f"{WIDOWX}/0/before/agent/controller/arm/target_pose"]
    state = conventions.google_state(base, tool, 0.0)
    np.testing.assert_allclose(state[:3], hand[:3], atol=1e-5)
    np.testing.assert_allclose(np.roll(state[3:7], 1) * np.sign(state[6]), hand[3:], atol=1e-4)


@pytest.mark.parametrize("step", [0, 7])
def test_the_google_state_is_in_the_base_frame(step: int) -> None:
    base = RECORDING[f"{GOOGLE}/{step}/before/agent/base_pose"].astype(float)
    tool = RECORDING[f"{GOOGLE}/{step}/before/extra/tcp_pose"].astype(float)
    state = conventions.google_state(base, tool, 0.25)
    np.testing.assert_allclose(state[:3], rotation(base[3:]).inv().apply(tool[:3] - base[:3]), atol=1e-5)
    expected = (rotation(base[3:]).inv() * rotation(tool[3:])).as_matrix()
    np.testing.assert_allclose(Rotation.from_quat(state[3:7]).as_matrix(), expected, atol=1e-5)
    assert state[7] == 0.25


def test_openness_and_closedness_are_shares() -> None:
    assert [conventions.widowx_openness(np.array([q, q])) for q in (0.0, 0.015, 0.026, 0.037, 0.05)] == pytest.approx(
        [0, 0, 0.5, 1, 1]
    )
    assert [conventions.google_closedness(np.array([q, q])) for q in (-0.1, 0.0, 0.65, 1.3, 2.0)] == pytest.approx(
        [0, 0, 0.5, 1, 1]
    )


def test_a_clear_wish_holds_the_google_gripper() -> None:
    gripper = conventions.GoogleGripper()
    assert gripper(0.5) == 0.0
    assert gripper(0.0) == 1.0  # close
    assert [gripper(1.0) for _ in range(conventions.STICKY_STEPS - 1)] == [1.0] * (conventions.STICKY_STEPS - 1)
    assert gripper(1.0) == -1.0  # and now open


def test_the_recorded_google_gripper_closes_when_told_one() -> None:
    start, end = (RECORDING[f"{GOOGLE}/{name}/agent/qpos"][-4:-2] for name in ("0/before", "2/after"))
    assert RECORDING[f"{GOOGLE}/0/action"][6] == 1.0
    assert conventions.google_closedness(start) == 0.0
    assert conventions.google_closedness(end) > 0.5
