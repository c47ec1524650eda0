"""What to call the labels of a segmentation in a sentence, and which of them are no objects."""

import re

_ROBOT = frozenset({"arm", "gripper", "robot"})
_SCENERY = frozenset({"background", "floor", "ground", "wall", "ceiling", "sky", "table"}) | {
    f"{room} table"
    for room in ("main", "kitchen", "living room", "study", "coffee")  # LIBERO's
}

_KNOWN = {
    "obj": "object",
    "bsktball": "basketball",
    "basket_goal": "basketball hoop",
    "boxbody": "box",
    "boxbodytop": "lid",
    "bin_start": "bin",
    "bin_goal": "bin",
    "faucetBase": "faucet",
    "goal_whole": "goal",
    "hammerbody": "hammer",
    "puck_channel": "plate",
    "puck_goal": "goal",
    "akita_black_bowl": "black bowl",
    "black_book": "black book",
    "chefmate_8_frypan": "frying pan",
    "cookies": "cookie box",
    "flat_stove": "stove",
    "glazed_rim_porcelain_ramekin": "ramekin",
    "new_salad_dressing": "salad dressing",
    "white_yellow_mug": "yellow and white mug",
    "wooden_two_layer_shelf": "wooden shelf",
}
"""Labels of Meta-World and LIBERO that their models call by other names than people would."""


_GENERIC = "object"
_BY_TASK = {"coffee machine": "mug", "container": "container", "puck": "puck", "block": "block"}
"""What Meta-World's ``obj`` and ``object`` are, by what its instruction speaks of."""


def named_by_task(label: str, instruction: str) -> str:
    """A label as it is or, where it says no more than that it is an object, what the task's instruction calls it."""
    if readable(label) != _GENERIC:
        return label
    return next((name for spoken, name in _BY_TASK.items() if spoken in instruction), label)


def readable(label: str) -> str:
    """What people call it: ``moka_pot_2`` is a ``moka pot``, ``RoundNut`` a ``round nut``."""
    kind = re.sub(r"[_\s]*\d+$", "", label.strip())
    if kind in _KNOWN:
        return _KNOWN[kind]
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind).replace("_", " ").replace("-", " ")
    return " ".join(words.lower().split())


def is_robot(label: str) -> bool:
    return readable(label) in _ROBOT


def is_object(label: str) -> bool:
    """Neither the robot nor the scenery that things stand on or before: nobody asks about these."""
    return readable(label) not in _ROBOT | _SCENERY | {""}


def may_mean(name: str, other: str) -> bool:
    """Whether "the ``name``" could be said of an ``other``: "the box" of a cookie box, "the object" of anything."""
    return name == _GENERIC or set(name.split()) <= set(other.split())


def plural(name: str) -> str:
    if name.endswith("shelf"):
        return f"{name[:-1]}ves"
    if re.search(r"(?:s|x|z|ch|sh)$", name):
        return f"{name}es"
    return re.sub(r"(?<=[^aeiou])y$", "ie", name) + "s"
