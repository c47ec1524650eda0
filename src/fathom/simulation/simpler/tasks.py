"""SIMPLER's tasks by its own names: instructions, step limits and what they are about."""

from typing import Literal, NamedTuple

Judged = Literal["at_once", "at_the_end"]
"""Whether an episode succeeds when the task is first solved, or only if it is solved when the time is up."""


class WidowXTask(NamedTuple):
    """A task of ManiSkill 3's Bridge twins.

    Attributes:
        world: ManiSkill's name.
        instruction: the sentence that SIMPLER gives a policy.
        max_steps: actions, at 5 Hz.
        source: what is to be moved, and ``target`` where to, as segmentation calls them.
    """

    world: str
    instruction: str
    max_steps: int
    source: str
    target: str


WIDOWX_TASKS = {
    "widowx_spoon_on_towel": WidowXTask(
        "PutSpoonOnTableClothInScene-v1", "put the spoon on the towel", 60, "spoon", "towel"
    ),
    "widowx_carrot_on_plate": WidowXTask("PutCarrotOnPlateInScene-v1", "put carrot on plate", 60, "carrot", "plate"),
    "widowx_stack_cube": WidowXTask(
        "StackGreenCubeOnYellowCubeBakedTexInScene-v1",
        "stack the green block on the yellow block",
        60,
        "green block",
        "yellow block",
    ),
    "widowx_put_eggplant_in_basket": WidowXTask(
        "PutEggplantInBasketScene-v1", "put eggplant into yellow basket", 120, "eggplant", "basket"
    ),
}
"""In the order of SIMPLER's own table."""

WIDOWX_FPS = 5
WIDOWX_INITIAL_STATES = 24
"""SIMPLER tries the episodes 0 to 23 of each task."""


class GoogleTask(NamedTuple):
    """A task of the original SIMPLER's Google Robot.

    Attributes:
        instruction: what it asks for; SIMPLER names the things and drawers of an episode in its own sentence.
        max_steps: actions, at 3 Hz.
    """

    instruction: str
    max_steps: int


GOOGLE_TASKS = {
    "google_robot_pick_coke_can": GoogleTask("pick coke can", 80),
    "google_robot_move_near": GoogleTask("move one thing near another", 80),
    "google_robot_open_drawer": GoogleTask("open a drawer", 113),
    "google_robot_close_drawer": GoogleTask("close a drawer", 113),
    "google_robot_place_apple_in_closed_top_drawer": GoogleTask("open top drawer, then place apple into it", 200),
}
"""Table 3 of the paper: drawers are one column there."""

GOOGLE_FPS = 3
