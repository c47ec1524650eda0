"""What a policy may meet in an episode that its demonstrations never showed: each kind of change, and its strength.

Only the look of a scene changes, never what can happen in it. All of it is drawn here, as plain numbers, from the
episode's seed; a simulator carries it out (in MuJoCo: :mod:`fathom.simulation.perturber`). What is drawn does not
depend on the strength, which only scales it: one episode under growing strength drifts away from itself steadily.
"""

import colorsys
import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from fathom.errors import UserError

Array = NDArray[Any]
Kind = Literal["camera", "lighting", "table", "background", "distractors"]
Colour = tuple[float, float, float]
"""Red, green, blue in 0..1."""
KINDS: tuple[Kind, ...] = get_args(Kind)

MAX_DISTRACTORS = 6
_PLACES = 600


@dataclass(frozen=True)
class Surface:
    """A pattern in two colours that covers a surface: stripes of one wave, spots of two, blotches of more.

    Attributes:
        waves: (turns across the texture in x, in y, phase in radians) of each; whole turns, so that it can be tiled.
        blend: share of the pattern in what is seen; the rest is the surface's own look.
    """

    colours: tuple[Colour, Colour]
    waves: tuple[tuple[int, int, float], ...]
    blend: float

    def pattern(self, x: Array, y: Array) -> Array:
        """Its colours (..., 3) in 0..1 at these places; one turn is 1 long in x and in y."""
        field = sum(np.cos(2 * np.pi * (i * x + j * y) + phase, dtype=np.float32) for i, j, phase in self.waves)
        share = 0.5 + 0.5 * np.tanh(4 * np.asarray(field))[..., None]  # steep: the colours meet in a narrow seam
        first, second = np.array(self.colours, np.float32)
        return np.asarray(second + share * (first - second))

    def paint(self, texture: Array) -> Array:
        """A texture, uint8 (H, W, 3 or 4), blended with the pattern; a tall one is a cube's, a column of squares."""
        height, width = texture.shape[:2]
        pattern = self.pattern(np.arange(width) / width, np.arange(height)[:, None] % width / width)
        mixed = texture.astype(np.float32)
        mixed[..., :3] += np.float32(self.blend) * (255 * pattern - mixed[..., :3])
        return np.rint(mixed).astype(np.uint8)

    def tint(self, colour: Array) -> Array:
        """A plain colour (3,) in 0..1 blended with the pattern's first."""
        return np.asarray(colour + self.blend * (np.array(self.colours[0]) - colour))


@dataclass(frozen=True)
class Distractor:
    """A coloured solid that stands about.

    Attributes:
        half_size: x, y and z in metres; a cylinder has equal x and y, an ellipsoid three radii.
        yaw: radians.
    """

    shape: Literal["box", "cylinder", "ellipsoid"]
    half_size: tuple[float, float, float]
    yaw: float
    colour: Colour


@dataclass(frozen=True)
class Draw:
    """What happens to the scene in one episode; the defaults leave it as it is.

    Attributes:
        azimuth, elevation: the camera moves on the sphere around what it looks at, and keeps looking there; radians.
        distance: the camera's new distance from there as a share of the old.
        gain: of all light, by colour.
        turn: of all lamps around the vertical; radians.
        table, background: their new looks.
        distractors: the first stands in the first of ``places`` where it may, the next in one after that.
        places: x and y in -1..1 of the area around the workspace.
    """

    azimuth: float = 0.0
    elevation: float = 0.0
    distance: float = 1.0
    gain: Colour = (1.0, 1.0, 1.0)
    turn: float = 0.0
    table: Surface | None = None
    background: Surface | None = None
    distractors: tuple[Distractor, ...] = ()
    places: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Perturbation:
    """One kind of change, and how strong it is.

    Attributes:
        kind: what changes: where the camera stands, the light, the table's look, the look of what lies behind (floor,
            walls, sky), or how many things stand about.
        strength: 0 (nothing changes) to 1 (as far as the task stays within sight and reach).

    Raises:
        UserError: there is no such kind, or the strength is out of range.
    """

    kind: Kind
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"there is no perturbation called {self.kind!r}: it is one of {', '.join(KINDS)}.")
        if not 0 <= self.strength <= 1:
            raise UserError(f"the strength of a perturbation is a number from 0 to 1, and not {self.strength:g}.")

    @classmethod
    def parse(cls, words: str) -> Self:
        """``lighting`` (at full strength) or ``lighting=0.5``.

        Raises:
            UserError: it is neither.
        """
        kind, given, strength = words.partition("=")
        try:
            return cls(kind, float(strength) if given else 1.0)  # type: ignore[arg-type]  # checked by __post_init__
        except ValueError:
            raise UserError(
                f"the strength of a perturbation is a number from 0 to 1, as in {kind}=0.5, and not {strength!r}."
            ) from None

    def __str__(self) -> str:
        """As :meth:`parse` reads it."""
        return f"{self.kind}={self.strength:g}"

    def draw(self, seed: int) -> Draw:
        """What it does in the episode of this seed."""
        if self.strength == 0:
            return Draw()
        rng = np.random.default_rng((seed, zlib.crc32(self.kind.encode())))
        match self.kind:
            case "camera":
                return _camera(rng, self.strength)
            case "lighting":
                return _lighting(rng, self.strength)
            case "table":
                return Draw(table=_surface(rng, self.strength))
            case "background":
                return Draw(background=_surface(rng, self.strength))
            case "distractors":
                return _distractors(rng, self.strength)


def _camera(rng: np.random.Generator, strength: float) -> Draw:
    azimuth, elevation, distance = (_signed(rng) for _ in range(3))
    return Draw(
        azimuth=strength * azimuth * math.radians(20),
        elevation=strength * elevation * math.radians(8),
        distance=math.exp(strength * distance * 0.12),
    )


def _lighting(rng: np.random.Generator, strength: float) -> Draw:
    """A dimmer or brighter room, in a warmer, colder or otherwise coloured light that comes from elsewhere."""
    level = rng.uniform(-0.9, -0.4) if rng.random() < 0.5 else rng.uniform(0.25, 0.5)
    colour = rng.normal(size=3)
    colour = 0.35 * (colour - colour.mean()) / np.abs(colour - colour.mean()).max()
    red, green, blue = (math.exp(strength * float(level + part)) for part in colour)
    return Draw(
        gain=(red, green, blue),
        turn=strength * _signed(rng) * math.radians(120),
    )


def _surface(rng: np.random.Generator, strength: float) -> Surface:
    first, second = (_colour(rng, saturation=(0.2, 0.8), value=(0.25, 0.9)) for _ in range(2))
    turns = int(rng.integers(2, 7))
    match int(rng.choice([1, 2, 5])):
        case 1:
            directions = [(turns, int(rng.integers(-2, 3)))]
        case 2:
            directions = [(turns, 0), (0, turns)]
        case _:
            directions = [tuple(int(part) for part in rng.integers(-3, 4, 2)) for _ in range(5)]  # type: ignore[misc]
    waves = tuple((i, j, float(rng.uniform(0, 2 * np.pi))) for i, j in directions)
    return Surface((first, second), waves, strength)


def _distractors(rng: np.random.Generator, strength: float) -> Draw:
    things = [_distractor(rng) for _ in range(MAX_DISTRACTORS)]
    places = tuple((float(x), float(y)) for x, y in rng.uniform(-1, 1, (_PLACES, 2)))
    return Draw(distractors=tuple(things[: math.ceil(strength * MAX_DISTRACTORS)]), places=places)


def _distractor(rng: np.random.Generator) -> Distractor:
    shapes: tuple[Literal["box", "cylinder", "ellipsoid"], ...] = ("box", "cylinder", "ellipsoid")
    shape = shapes[rng.integers(len(shapes))]
    x, y = rng.uniform(0.02, 0.035, 2)
    size = (float(x), float(x if shape == "cylinder" else y), float(rng.uniform(0.02, 0.045)))
    colour = _colour(rng, saturation=(0.6, 1.0), value=(0.5, 1.0))
    return Distractor(shape, size, float(rng.uniform(0, np.pi)), colour)


def _signed(rng: np.random.Generator) -> float:
    """Away from 0, so that every episode is changed: its size in 0.5..1."""
    return float(rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.0))


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    return colorsys.hsv_to_rgb(float(rng.random()), float(rng.uniform(*saturation)), float(rng.uniform(*value)))
