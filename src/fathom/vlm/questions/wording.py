"""The sentences: for each question several ways to ask it, each with its answer.

``{a}`` and ``{b}`` are names of objects, ``{value}`` a measure. The words for sides are those that the judge of
`fathom.vlm.scoring` knows.
"""

Wording = tuple[str, str]

CAMERA_DISTANCE: tuple[Wording, ...] = (
    ("How far is the {a} from the camera?", "The {a} is {value} away from the camera."),
    ("How far away is the {a}?", "It is {value} away."),
    ("What is the distance between the camera and the {a}?", "The distance is {value}."),
    ("How much space is there from the camera to the middle of the {a}?", "About {value}."),
)
OBJECT_DISTANCE: tuple[Wording, ...] = (
    ("How far apart are the {a} and the {b}, from middle to middle?", "They are {value} apart."),
    ("What is the distance from the middle of the {a} to the middle of the {b}?", "The distance is {value}."),
    ("How far is the middle of the {a} from that of the {b}?", "The {a} is {value} away from the {b}."),
)
HEIGHT: tuple[Wording, ...] = (
    ("How tall is the {a}?", "The {a} is {value} tall."),
    ("What is the height of the {a}?", "Its height is {value}."),
    ("How high does the {a} reach above its own foot?", "About {value}."),
)
WIDTH: tuple[Wording, ...] = (
    ("How wide is the {a} as the camera sees it?", "The {a} is {value} wide."),
    ("What is the width of the {a}, seen from the camera?", "Its width is {value}."),
    ("Seen from here, how much does the {a} measure from side to side?", "About {value}."),
)
NEARER: tuple[Wording, ...] = (
    ("Which is nearer to the camera, the {a} or the {b}?", "The {near} is nearer."),
    ("Which is closer to you, the {a} or the {b}?", "The {near}."),
    ("Which is farther from the camera, the {a} or the {b}?", "The {far} is farther."),
    ("Of the {a} and the {b}, which one is farther away?", "The {far}."),
    ("Is the {near} nearer to the camera than the {far}?", "Yes, the {near} is nearer."),
    ("Is the {far} nearer to the camera than the {near}?", "No, the {far} is farther away."),
)
EITHER: tuple[str, ...] = (
    "Seen from the camera, is the {a} {one} or {other} the {b}?",
    "From where the camera stands, is the {a} {one} or {other} the {b}?",
)
WHETHER: tuple[str, ...] = (
    "Seen from the camera, is the {a} {asked} the {b}?",
    "Is the {a} {asked} the {b} in this view?",
)
WHERE: tuple[str, ...] = (
    "Where is the {a} relative to the {b}, seen from the camera?",
    "Seen from the camera, what is the position of the {a} relative to the {b}?",
)
SIDES: tuple[tuple[str, str], ...] = (
    ("to the left of", "to the right of"),
    ("above", "below"),
    ("in front of", "behind"),
)
"""By axis x, y, z of the camera: for a smaller and for a larger coordinate."""
COUNT: tuple[Wording, ...] = (
    ("How many {plural} can be seen in the picture?", "There {are} {n} {noun}."),
    ("How many {plural} are there?", "{n}."),
    ("Count the {plural} in this view.", "{n} {noun}."),
)
COUNT_ALL: tuple[Wording, ...] = (
    ("How many objects can be seen, leaving out the robot and the furniture they stand on?", "There {are} {n} {noun}."),
    ("Without the robot, the table and the room, how many objects does the picture show?", "{n}."),
)


def spoken(metres: float) -> str:
    """A length with three digits: ``1.23 m``, below a metre ``63.4 cm``."""
    metres = float(f"{metres:.3g}")
    return f"{metres:.3g} m" if metres >= 1 else f"{100 * metres:.3g} cm"


def joined(parts: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
