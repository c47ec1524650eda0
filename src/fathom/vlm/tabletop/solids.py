"""What stands on the table, and where the camera is."""

from dataclasses import dataclass
from math import atan, degrees, hypot, pi, tau
from typing import Literal

import numpy as np

from fathom.vlm.questions.geometry import View

Shape = Literal["ball", "box", "can"]
Colour = tuple[float, float, float]

COLOURS: dict[str, Colour] = {
    "red": (0.85, 0.15, 0.12),
    "green": (0.15, 0.65, 0.2),
    "blue": (0.15, 0.3, 0.85),
    "yellow": (0.9, 0.8, 0.15),
    "purple": (0.55, 0.2, 0.7),
    "white": (0.92, 0.92, 0.9),
}
SHAPES: tuple[Shape, ...] = ("ball", "box", "can")

_SCALE = (0.5, 2.0)
"""Metres from a table's middle within which its solids stand, log-uniform: on a larger table they are larger."""
_DISTANCE = (1.8, 5.0)
"""From the camera to the table's middle, as a multiple of the scale, log-uniform."""
_ELEVATION = (20.0, 45.0)
"""Degrees by which the camera looks down."""
_FRAMING = (1.0, 1.4)
"""Half the picture's height at the table's middle, as a multiple of the scale: the lens follows the distance."""


@dataclass(frozen=True)
class Solid:
    """One thing that stands on the table (z = 0, upwards positive).

    Attributes:
        place: x and y of its middle, metres.
        half_size: along x, y (before turning) and z, metres; a ball has three equal ones, a can two.
        yaw: radians around the vertical.
    """

    shape: Shape
    colour: str
    place: tuple[float, float]
    half_size: tuple[float, float, float]
    yaw: float = 0.0

    @property
    def label(self) -> str:
        """As a simulator's segmentation would call it."""
        return f"{self.colour}_{self.shape}"

    @property
    def reach(self) -> float:
        """Radius of its footprint, metres."""
        return hypot(*self.half_size[:2]) if self.shape == "box" else self.half_size[0]


@dataclass(frozen=True)
class Table:
    """One scene.

    Attributes:
        distance: from the camera to the table's middle, metres.
        view: the camera; it looks at the middle of the table.
        azimuth: of the light, radians.
        ground: the table's colour.
    """

    solids: tuple[Solid, ...]
    distance: float
    view: View
    azimuth: float
    ground: Colour


def draw_table(rng: np.random.Generator) -> Table:
    """A scene with two or three solids that do not touch."""
    scale = float(np.exp(rng.uniform(*np.log(_SCALE))))
    wanted = int(rng.integers(2, 4))
    solids: list[Solid] = []
    for _ in range(40):
        solid = _draw_solid(rng, scale)
        if all(_gap(solid, other) > 0.05 * scale for other in solids):
            solids.append(solid)
        if len(solids) == wanted:
            break
    distance = float(np.exp(rng.uniform(*np.log(_DISTANCE))))
    half_height = rng.uniform(*_FRAMING)
    view = View(fovy=2 * degrees(atan(half_height / distance)), tilt=float(rng.uniform(*_ELEVATION)))
    grey = rng.uniform(0.35, 0.7)
    red, green, blue = (float(grey + part) for part in rng.uniform(-0.08, 0.08, 3))
    return Table(tuple(solids), scale * distance, view, float(rng.uniform(0, tau)), (red, green, blue))


def _draw_solid(rng: np.random.Generator, scale: float) -> Solid:
    shape = SHAPES[rng.integers(len(SHAPES))]
    colour = list(COLOURS)[rng.integers(len(COLOURS))]
    angle, radius = rng.uniform(0, tau), scale * np.sqrt(rng.uniform(0, 0.8))
    place = (float(radius * np.cos(angle)), float(radius * np.sin(angle)))
    size = scale * rng.uniform(0.1, 0.28, 3)
    match shape:
        case "ball":
            half_size = (float(size[0]),) * 3
        case "box":
            half_size = (float(size[0]), float(size[1]), float(size[2]))
        case "can":
            half_size = (float(0.7 * size[0]), float(0.7 * size[0]), float(1.2 * size[2]))
    return Solid(shape, colour, place, half_size, float(rng.uniform(0, pi)))


def _gap(one: Solid, other: Solid) -> float:
    apart = hypot(one.place[0] - other.place[0], one.place[1] - other.place[1])
    return apart - one.reach - other.reach
