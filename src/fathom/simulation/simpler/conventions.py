"""What policies say and hear, and what SIMPLER's simulators say and hear: every convention in one place.

Policies live in the spaces of the data they are trained on. WidowX (BridgeData V2): an action is a step of the hand in
the robot's base frame, x, y, z in metres, roll, pitch, yaw in radians, then the gripper, 1 open and 0 closed; its
proprio is the hand's position, its roll, pitch, yaw *relative to pointing straight down*, and the gripper's openness.
Google Robot (RT-1's data): the same action; its proprio is the hand's position, its quaternion (x, y, z, w), and the
gripper's closedness. Both as open-pi-zero's ``BridgeSimplerAdapter`` and ``EDRSimplerAdapter`` read them.

Roll, pitch, yaw are turns about fixed axes, x first: R = Rz(yaw) Ry(pitch) Rx(roll). Quaternions are (w, x, y, z).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

WIDOWX_STATE_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
GOOGLE_STATE_NAMES = ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper")
ACTION_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")

ACTION_LOW = (-1.0, -1.0, -1.0, -np.pi / 2, -np.pi / 2, -np.pi / 2, 0.0)
ACTION_HIGH = (1.0, 1.0, 1.0, np.pi / 2, np.pi / 2, np.pi / 2, 1.0)
"""The simulators' own bounds; the gripper's is ours."""

POINTING_DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
"""The WidowX's hand in its base frame when BridgeData calls its roll, pitch, yaw zero."""

STICKY_STEPS = 15
"""A closing or opening of the Google Robot's gripper is held for so many actions (open-pi-zero; Octo's is the same)."""


# Rotations. -----------------------------------------------------------------------------------------------------------


def matrix_of_quaternion(quaternion: Array) -> Array:
    """(4,) w, x, y, z of any length -> (3, 3)."""
    w, x, y, z = np.asarray(quaternion, np.float64) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def matrix_of_rpy(rpy: Array) -> Array:
    """(3,) roll, pitch, yaw about fixed axes -> (3, 3)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def rpy_of_matrix(matrix: Array) -> Array:
    """(3, 3) -> (3,) roll, pitch, yaw about fixed axes; pitch in [-pi/2, pi/2]."""
    pitch = np.arctan2(-matrix[2, 0], np.hypot(matrix[0, 0], matrix[1, 0]))
    return np.array([np.arctan2(matrix[2, 1], matrix[2, 2]), pitch, np.arctan2(matrix[1, 0], matrix[0, 0])])


def rotation_vector_of_matrix(matrix: Array) -> Array:
    """(3, 3) -> (3,) axis times angle, for angles below pi."""
    twice_sine = np.array(
        [matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]], np.float64
    )
    sine = np.linalg.norm(twice_sine) / 2
    angle = np.arctan2(sine, (np.trace(matrix) - 1) / 2)
    return twice_sine / 2 * (angle / sine if sine > 1e-12 else 1.0)


# The WidowX. ----------------------------------------------------------------------------------------------------------


def widowx_state(hand: Array, openness: float) -> Array:
    """What a policy hears: float32 (7,).

    Args:
        hand: pose of ``ee_gripper_link`` in the base frame (7,), position and quaternion.
        openness: of the gripper, 0..1.
    """
    rpy = rpy_of_matrix(matrix_of_quaternion(hand[3:]) @ POINTING_DOWN.T)
    return np.array([*hand[:3], *rpy, openness], np.float32)


def widowx_openness(fingers: Array, low: float = 0.015, high: float = 0.037) -> float:
    """0 closed .. 1 open, from the two fingers' joints in metres, as SIMPLER measures it."""
    return float(np.clip((np.mean(fingers) - low) / (high - low), 0.0, 1.0))


def widowx_to_maniskill(action: Array) -> Array:
    """What ManiSkill 3's Bridge twins are told, float32 (7,).

    Their controller reads a rotation as turns about *moving* axes, x first (R = Rx Ry Rz); the gripper is -1 or 1.
    """
    matrix = matrix_of_rpy(action[3:6])
    about_moving_axes = -rpy_of_matrix(matrix.T)
    return np.array([*action[:3], *about_moving_axes, _two_way(action[6])], np.float32)


def widowx_to_simpler(action: Array) -> Array:
    """What the original SIMPLER's WidowX is told, float32 (7,): the rotation as axis times angle."""
    return np.array(
        [*action[:3], *rotation_vector_of_matrix(matrix_of_rpy(action[3:6])), _two_way(action[6])], np.float32
    )


def _two_way(gripper: float) -> float:
    return 1.0 if gripper > 0.5 else -1.0


# The Google Robot. ----------------------------------------------------------------------------------------------------


def google_state(base: Array, hand: Array, closedness: float) -> Array:
    """What a policy hears: float32 (8,).

    Args:
        base, hand: poses in the world (7,), position and quaternion.
        closedness: of the gripper, 0..1.
    """
    to_base = matrix_of_quaternion(base[3:]).T
    w, x, y, z = _product(np.asarray(base[3:], np.float64) * [1, -1, -1, -1], np.asarray(hand[3:], np.float64))
    return np.array([*(to_base @ (hand[:3] - base[:3])), x, y, z, w, closedness], np.float32)


def google_closedness(fingers: Array, low: float = 0.0, high: float = 1.3) -> float:
    """0 open .. 1 closed, from the two fingers' joints in radians, as SIMPLER measures it."""
    return float(np.clip((np.mean(fingers) - low) / (high - low), 0.0, 1.0))


class GoogleGripper:
    """The Google Robot's gripper is told changes: this turns a wish (1 open, 0 closed) into held changes.

    A wish that is clear enough is carried out for :data:`STICKY_STEPS` actions, whatever is wished meanwhile.
    """

    def __init__(self) -> None:
        self._held = 0.0
        self._left = 0

    def __call__(self, wish: float) -> float:
        """-1 opens further .. 1 closes further."""
        change = 1.0 - 2.0 * float(wish)
        if self._left == 0 and abs(change) > 0.5:
            self._held, self._left = change, STICKY_STEPS
        if self._left > 0:
            self._left -= 1
            return self._held
        return change


def google_to_simpler(action: Array, gripper: float) -> Array:
    """What the original SIMPLER's Google Robot is told, float32 (7,); ``gripper`` comes from :class:`GoogleGripper`."""
    return np.array([*action[:3], *rotation_vector_of_matrix(matrix_of_rpy(action[3:6])), gripper], np.float32)


def _product(one: Array, other: Array) -> Array:
    """Of two quaternions."""
    w, v, s, u = one[0], one[1:], other[0], other[1:]
    return np.array([w * s - v @ u, *(w * u + s * v + np.cross(v, u))])
