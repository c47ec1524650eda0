"""Which columns of published RLDS datasets are what, and what their numbers mean.

Sources: the datasets' ``features.json``, and the public transforms of Octo and OpenVLA
(``oxe_standardization_transforms.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

OBSERVATION = "steps/observation/"
Column = tuple[str, int]
"""A name in the record, and its numbers per step."""


@dataclass(frozen=True)
class RldsMap:
    """How one dataset becomes ours.

    Attributes:
        datasets: its names in ``dataset_info.json``.
        cameras: names of pictures under ``steps/observation/``, by the camera that they become.
        state: columns that together are the state.
        action: columns that together are the action; the last number is the gripper.
        names: of the numbers of ``state`` and ``action``.
        instruction: the column with the task.
        relative_gripper: the gripper is commanded as a change (+1 close, −1 open, 0 stay), and stored as a position.
        still_start: a first step whose action is all zeros is no action, and is left out.
        conventions: what is stored, in words.
    """

    datasets: tuple[str, ...]
    fps: int
    robot_type: str
    cameras: Mapping[str, str]
    state: tuple[Column, ...]
    action: tuple[Column, ...]
    names: Mapping[str, tuple[str, ...]]
    instruction: str
    relative_gripper: bool
    still_start: bool
    conventions: Mapping[str, str]


_ACTION_NAMES = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")

BRIDGE = RldsMap(
    datasets=("bridge_dataset", "bridge_orig", "bridge_data_v2"),
    fps=5,
    robot_type="widowx",
    cameras={"main": "image_0"},
    state=((f"{OBSERVATION}state", 7),),
    action=(("steps/action", 7),),
    names={"state": ("x", "y", "z", "roll", "pitch", "yaw", "gripper"), "action": _ACTION_NAMES},
    instruction="steps/language_instruction",
    relative_gripper=False,
    still_start=True,
    conventions={
        "state": "end effector in the robot's base: metres, then roll, pitch, yaw in radians (rotations about the "
        "fixed x, y, z axes); gripper 0 closed … 1 open, measured",
        "action": "change of position in metres and of roll, pitch, yaw in radians, as commanded",
        "gripper": "absolute, as published: 0 closed, 1 open, rarely between",
        "start": "the first step, whose action is all zeros, is left out",
    },
)

FRACTAL = RldsMap(
    datasets=("fractal20220817_data",),
    fps=3,
    robot_type="google_robot",
    cameras={"main": "image"},
    state=((f"{OBSERVATION}base_pose_tool_reached", 7), (f"{OBSERVATION}gripper_closed", 1)),
    action=(
        ("steps/action/world_vector", 3),
        ("steps/action/rotation_delta", 3),
        ("steps/action/gripper_closedness_action", 1),
    ),
    names={"state": ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper_closed"), "action": _ACTION_NAMES},
    instruction=f"{OBSERVATION}natural_language_instruction",
    relative_gripper=True,
    still_start=False,
    conventions={
        "state": "tool in the robot's base, reached: metres, then a quaternion x, y, z, w; gripper 0 open … 1 closed",
        "action": "change of position in metres and of roll, pitch, yaw in radians; the base's motion is left out",
        "gripper": "absolute: 0 closed, 1 open; made from the published changes (+1 close, −1 open, 0 stay)",
    },
)

RLDS_MAPS = {"bridge": BRIDGE, "fractal": FRACTAL}


def absolute_gripper(changes: Float[np.ndarray, " steps"]) -> Float[np.ndarray, " steps"]:
    """Positions (0 closed, 1 open) from changes (+1 close, −1 open, within ±0.1 stay).

    Before the first change the gripper is where that change does not lead: a gripper that closes was open. One that
    never changes is open. (Octo, OpenVLA: ``rel2abs_gripper_actions``.)
    """
    target = np.where(changes < -0.1, 1.0, np.where(changes > 0.1, 0.0, np.nan))
    known = np.flatnonzero(~np.isnan(target))
    if not len(known):
        return np.ones_like(changes)
    latest = np.searchsorted(known, np.arange(len(changes)), side="right") - 1
    before = 1.0 - target[known[0]]
    return np.where(latest >= 0, target[known[latest.clip(0)]], before).astype(changes.dtype)
