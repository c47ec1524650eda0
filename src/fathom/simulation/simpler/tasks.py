"""SIMPLER's tasks by its own names: instructions, step limits and what they are about."""

from typing import NamedTuple


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
