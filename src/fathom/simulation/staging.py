"""A MuJoCo scene's parts, and where distractors may stand among them."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mujoco
import numpy as np

from fathom.simulation.environment import Array
from fathom.simulation.perturbation import Distractor, Draw
from fathom.simulation.rendering import Camera

_SURROUNDINGS = 0.35
"""Distractors stand up to this far from the workspace, in metres."""

_CLEARANCE = 0.02
"""Metres between a distractor and everything else, the lines of sight included."""

_LEVEL = 2e-3
"""Metres by which the table may differ under a distractor."""

_DRAWN_GROUPS = np.array([1, 1, 1, 0, 0, 0], np.uint8)
_DOWN = np.array([0.0, 0.0, -1.0])


@dataclass(frozen=True)
class Stage:
    """The parts that the things of a scene play.

    Attributes:
        table: geom ids of what the task's objects stand on.
        background: geom ids of floor and walls.
        low, high: corners of the workspace, a box in which the task happens: metres, world coordinates. No distractor
            stands in it or hides any of it.
    """

    table: Collection[int]
    background: Collection[int]
    low: tuple[float, float, float]
    high: tuple[float, float, float]

    @property
    def centre(self) -> Array:
        """(3,)."""
        return np.add(self.low, self.high) / 2


class Standing(NamedTuple):
    """A distractor and where its middle is, (3,)."""

    thing: Distractor
    position: Array

    @property
    def radius(self) -> float:
        """Of a ball around it."""
        return float(np.linalg.norm(self.thing.half_size))


@dataclass(frozen=True)
class Scene:
    """One state of a scene, and the fixed cameras that look at it."""

    model: mujoco.MjModel
    data: mujoco.MjData
    stage: Stage
    cameras: Sequence[Camera]

    def arrange(self, draw: Draw) -> Iterator[Standing]:
        """Stand each distractor in the first place that suits it: level on the table with nothing above it, apart from
        the workspace and the others, hiding none of the task from any camera, and in sight of the first.

        One that finds no such place stays away.
        """
        if not draw.distractors:
            return
        low, high = np.array(self.stage.low[:2]), np.array(self.stage.high[:2])
        places = iter((low + high) / 2 + ((high - low) / 2 + _SURROUNDINGS) * np.array(draw.places))
        precious, taken = self._precious(), list[Standing]()
        for thing in draw.distractors:
            for place in places:
                position = self._foothold(thing, place)
                if position is None:
                    continue
                new = Standing(thing, position)
                if self._is_apart(new, taken) and self._hides_none(new, precious) and self._is_seen(position):
                    taken.append(new)
                    yield new
                    break

    def _precious(self) -> Array:
        """(n, 3): points that must stay in sight: a grid through the workspace, and corners of the task's objects."""
        x, y, z = (np.linspace(*ends, 5) for ends in zip(self.stage.low, self.stage.high, strict=True))
        grid = np.stack(np.meshgrid(x, y, z), axis=-1).reshape(-1, 3)
        corners = np.stack(np.meshgrid(*[(-1, 1)] * 3), axis=-1).reshape(-1, 3)
        model, data = self.model, self.data
        drawn = (model.geom_group < len(_DRAWN_GROUPS) // 2) & (model.geom_bodyid > 0) & (model.geom_rbound > 0)
        drawn[[*self.stage.table, *self.stage.background]] = False
        boxes = [
            data.geom_xpos[geom] + (box[:3] + corners * box[3:]) @ data.geom_xmat[geom].reshape(3, 3).T
            for geom, box in zip(np.nonzero(drawn)[0], model.geom_aabb[drawn], strict=True)
        ]
        return np.concatenate([grid, *boxes])

    def _foothold(self, thing: Distractor, place: Array) -> Array | None:
        """Its middle (3,) when it stands there, if the table is level and free under all of it."""
        radius = math.hypot(*thing.half_size[:2]) + _CLEARANCE
        angles = np.linspace(0, 2 * math.pi, 8, endpoint=False)
        feet = place + radius * np.array([(0, 0), *zip(np.cos(angles), np.sin(angles), strict=True)])
        above = self.stage.high[2] + 1.0
        heights = []
        for foot in feet:
            distance, geom = self._cast(np.array([*foot, above]), _DOWN)
            if geom not in self.stage.table:
                return None
            heights.append(above - distance)
        return None if np.ptp(heights) > _LEVEL else np.array([*place, heights[0] + thing.half_size[2]])

    def _is_apart(self, new: Standing, taken: Sequence[Standing]) -> bool:
        """Whether it stands away from the workspace and from the others."""
        gap = np.linalg.norm(new.position - np.clip(new.position, self.stage.low, self.stage.high)) - new.radius
        gaps = [np.linalg.norm(new.position - other.position) - new.radius - other.radius for other in taken]
        return bool(min([gap, *gaps]) > _CLEARANCE)

    def _hides_none(self, new: Standing, precious: Array) -> bool:
        """Whether no camera's line of sight to a precious point comes near it."""
        for camera in self.cameras:
            eye = np.array(camera.position)
            sight = precious - eye
            nearest = np.clip(sight @ (new.position - eye) / (sight**2).sum(axis=1), 0, 1)
            distances = np.linalg.norm(eye + nearest[:, None] * sight - new.position, axis=1)
            if distances.min() < new.radius + _CLEARANCE:
                return False
        return True

    def _is_seen(self, position: Array) -> bool:
        """Whether the first camera sees this point."""
        camera = self.cameras[0]
        eye = np.array(camera.position)
        right, up, back = camera.axes().T @ (position - eye)
        inside = max(abs(right), abs(up)) < -back * math.tan(math.radians(camera.fovy) / 2)
        distance, _ = self._cast(eye, position - eye)
        return bool(inside and not 0 <= distance < 1)

    def _cast(self, start: Array, line: Array) -> tuple[float, int]:
        """(how many times the line's length to the first thing drawn, its geom id); (-1, -1) if there is none."""
        geom = np.full(1, -1, np.int32)
        distance = mujoco.mj_ray(self.model, self.data, start, line, _DRAWN_GROUPS, 1, -1, geom)
        return float(distance), int(geom[0])
