"""Carrying out a perturbation in MuJoCo, on what is drawn: neither the model nor the physics is ever changed."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mujoco
import numpy as np

from fathom.simulation.environment import Array
from fathom.simulation.perturbation import Distractor, Draw, Perturbation, Surface
from fathom.simulation.rendering import Camera

_SURROUNDINGS = 0.35
"""Distractors stand up to this far from the workspace, in metres."""

_CLEARANCE = 0.02
"""Metres between a distractor and everything else, the lines of sight included."""

_VISIBLE_GROUPS = np.array([1, 1, 1, 0, 0, 0], np.uint8)


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


class _Standing(NamedTuple):
    thing: Distractor
    position: Array
    """Of its middle, (3,)."""


class Perturber:
    """Changes what renderers draw, episode by episode.

    An environment makes one beside its model, calls :meth:`restart` at the start of each episode and gives it to its
    renderers.

    Args:
        cameras: that do not move; distractors hide nothing from any of them and stand within sight of the first.
    """

    def __init__(
        self, model: mujoco.MjModel, stage: Stage, perturbation: Perturbation, cameras: Sequence[Camera]
    ) -> None:
        self._model = model
        self._stage = stage
        self._perturbation = perturbation
        self._cameras = tuple(cameras)
        self._table = self._parts(set(stage.table))
        self._background = self._parts(set(stage.background))
        self._draw = Draw()
        self._standing: list[_Standing] = []
        self.episode = 0
        """Counts restarts, so that a renderer knows when to dress anew."""

    def restart(self, seed: int, data: mujoco.MjData) -> None:
        """Begin the episode of this seed, whose first state ``data`` holds."""
        self._draw = self._perturbation.draw(seed)
        self._standing = list(self._arrange(data))
        self.episode += 1

    def camera(self, camera: Camera) -> Camera:
        """Where this camera stands in this episode: on a sphere around the point of its axis nearest to the workspace's
        middle, which it goes on looking at."""
        draw = self._draw
        if draw.azimuth == draw.elevation == 0 and draw.distance == 1:
            return camera
        axes, position = camera.axes(), np.array(camera.position)
        forward = -axes[:, 2]
        pivot = position + forward * (forward @ (self._stage.centre - position))
        turn = _rotation((0.0, 0.0, 1.0), draw.azimuth) @ _rotation(axes[:, 0], -draw.elevation)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, (turn @ axes).ravel())
        x, y, z = (float(value) for value in pivot + draw.distance * turn @ (position - pivot))
        w, i, j, k = (float(value) for value in quaternion)
        return Camera(camera.name, (x, y, z), (w, i, j, k), camera.fovy)

    def hang(self, context: mujoco.MjrContext) -> None:
        """Put this episode's textures into a renderer's context, which must be current."""
        for surface, _, textures in self._surfaces():
            for texture in textures:
                self._upload(context, texture, surface)

    def dress(self, scene: mujoco.MjvScene) -> None:
        """Change lights and plain colours and add the distractors, in a scene that has just been updated."""
        self._light(scene)
        for surface, plain, _ in self._surfaces():
            for item in scene.geoms[: scene.ngeom]:
                if item.objtype == mujoco.mjtObj.mjOBJ_GEOM and item.objid in plain:
                    item.rgba[:3] = surface.tint(item.rgba[:3])
        for thing, position in self._standing:
            item = scene.geoms[scene.ngeom]
            kind = getattr(mujoco.mjtGeom, f"mjGEOM_{thing.shape.upper()}")
            x, y, z = thing.half_size
            size = (x, z, 0.0) if thing.shape == "cylinder" else (x, y, z)
            axes = _rotation((0.0, 0.0, 1.0), thing.yaw)
            mujoco.mjv_initGeom(item, kind, np.array(size), position, axes.ravel(), np.array([*thing.colour, 1.0]))
            item.segid = scene.ngeom  # drawn in the segmentation, too, where it hides what lies behind; of no geom
            scene.ngeom += 1

    # Surfaces. -------------------------------------------------------------------------------------------------------

    def _surfaces(self) -> Iterator[tuple[Surface, set[int], set[int]]]:
        """A new look, the geoms without a texture that take it on, and the textures that do."""
        if self._draw.table:
            yield self._draw.table, *self._table
        if self._draw.background:
            plain, textures = self._background
            sky = {i for i, kind in enumerate(self._model.tex_type) if kind == mujoco.mjtTexture.mjTEXTURE_SKYBOX}
            yield self._draw.background, plain, textures | sky

    def _parts(self, geoms: set[int]) -> tuple[set[int], set[int]]:
        """Geoms to tint and textures to paint; a texture that other things share is left to them, and its geoms tinted."""
        used = {geom: self._textures_of(geom) for geom in range(self._model.ngeom)}
        others = set().union(*(textures for geom, textures in used.items() if geom not in geoms))
        plain = {geom for geom in geoms if not used[geom] or used[geom] & others}
        return plain, set().union(*(used[geom] for geom in geoms)) - others

    def _textures_of(self, geom: int) -> set[int]:
        material = self._model.geom_matid[geom]
        return set() if material < 0 else {int(i) for i in np.ravel(self._model.mat_texid[material]) if i >= 0}

    def _upload(self, context: mujoco.MjrContext, index: int, surface: Surface) -> None:
        """Paint one texture on the graphics card. MuJoCo takes it from the model, which gets its own back at once."""
        model = self._model
        shape = int(model.tex_height[index]), int(model.tex_width[index]), int(model.tex_nchannel[index])
        start = int(model.tex_adr[index])
        place = slice(start, start + math.prod(shape))
        own = model.tex_data[place].copy()
        try:
            model.tex_data[place] = surface.paint(own.reshape(shape)).ravel()
            mujoco.mjr_uploadTexture(model, context, index)
        finally:
            model.tex_data[place] = own

    # Light. ----------------------------------------------------------------------------------------------------------

    def _light(self, scene: mujoco.MjvScene) -> None:
        turn, centre = _rotation((0.0, 0.0, 1.0), self._draw.turn), self._stage.centre
        for light in scene.lights[: scene.nlight]:
            gain = np.array(self._draw.gain) * (self._draw.headlight if light.headlight else 1.0)
            for part in (light.ambient, light.diffuse, light.specular):
                part[:] = part * gain
            if not light.headlight and self._draw.turn:
                light.pos[:] = centre + turn @ (light.pos - centre)
                light.dir[:] = turn @ light.dir

    # Distractors. ----------------------------------------------------------------------------------------------------

    def _arrange(self, data: mujoco.MjData) -> Iterator[_Standing]:
        """Stand each distractor in the first place that suits it; where there is none, it stays away."""
        if not self._draw.distractors:
            return
        taken: list[_Standing] = []
        precious = self._precious(data)
        low, high = (np.array(corner[:2]) for corner in (self._stage.low, self._stage.high))
        middle, reach = (low + high) / 2, (high - low) / 2 + _SURROUNDINGS
        places = iter(middle + reach * np.array(self._draw.places))
        for thing in self._draw.distractors:
            for place in places:
                position = self._foothold(data, thing, place)
                if position is None:
                    continue
                new = _Standing(thing, position)
                if self._is_free(new, taken, precious) and self._is_seen(data, position):
                    taken.append(new)
                    yield new
                    break

    def _precious(self, data: mujoco.MjData) -> Array:
        """(n, 3): points that must stay in sight: a grid through the workspace, and the corners of the task's objects."""
        x, y, z = (np.linspace(*ends, 5) for ends in zip(self._stage.low, self._stage.high, strict=True))
        grid = np.stack(np.meshgrid(x, y, z), axis=-1).reshape(-1, 3)
        corners = np.stack(np.meshgrid(*[(-1, 1)] * 3), axis=-1).reshape(-1, 3)
        drawn = (self._model.geom_group < 3) & (self._model.geom_bodyid > 0) & (self._model.geom_rbound > 0)
        drawn[[*self._stage.table, *self._stage.background]] = False
        boxes = [
            data.geom_xpos[geom] + (box[:3] + corners * box[3:]) @ data.geom_xmat[geom].reshape(3, 3).T
            for geom, box in zip(np.nonzero(drawn)[0], self._model.geom_aabb[drawn], strict=True)
        ]
        return np.concatenate([grid, *boxes])

    def _foothold(self, data: mujoco.MjData, thing: Distractor, place: Array) -> Array | None:
        """Its middle (3,) when it stands on the table there, if that is level and free under and above all of it."""
        radius = math.hypot(*thing.half_size[:2]) + _CLEARANCE
        heights = []
        for x, y in [(0, 0), *((math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 8, endpoint=False))]:
            start = np.array([place[0] + radius * x, place[1] + radius * y, self._stage.high[2] + 1.0])
            distance, geom = self._cast(data, start, np.array([0.0, 0.0, -1.0]))
            if geom not in self._stage.table:
                return None
            heights.append(start[2] - distance)
        if max(heights) - min(heights) > 2e-3:
            return None
        return np.array([*place, heights[0] + thing.half_size[2]])

    def _is_free(self, new: _Standing, taken: list[_Standing], precious: Array) -> bool:
        """Whether it stands apart from the others and the workspace, and hides nothing of what must stay in sight."""
        radius = float(np.linalg.norm(new.thing.half_size)) + _CLEARANCE
        if any(
            np.linalg.norm(new.position - other.position) < radius + np.linalg.norm(other.thing.half_size)
            for other in taken
        ):
            return False
        nearest = np.clip(new.position, self._stage.low, self._stage.high)
        if np.linalg.norm(new.position - nearest) < radius:
            return False
        for camera in self._cameras:
            eye = np.array(camera.position)
            sight = precious - eye
            along = np.clip(sight @ (new.position - eye) / (sight**2).sum(axis=1), 0, 1)  # the nearest point of each line
            if (np.linalg.norm(eye + along[:, None] * sight - new.position, axis=1) < radius).any():
                return False
        return True

    def _is_seen(self, data: mujoco.MjData, position: Array) -> bool:
        """Whether the first camera sees its middle."""
        camera = self._cameras[0]
        line = position - np.array(camera.position)
        right, up, back = camera.axes().T @ line
        slope = math.tan(math.radians(camera.fovy) / 2)
        if max(abs(right), abs(up)) > -back * slope:
            return False
        distance, _ = self._cast(data, np.array(camera.position), line)
        return distance < 0 or distance > 1

    def _cast(self, data: mujoco.MjData, start: Array, line: Array) -> tuple[float, int]:
        """(how many lines' lengths to the first thing drawn, its geom id); (-1, -1) if there is none."""
        geom = np.full(1, -1, np.int32)
        distance = mujoco.mj_ray(self._model, data, start, line, _VISIBLE_GROUPS, 1, -1, geom)
        return float(distance), int(geom[0])


def _rotation(axis: Any, angle: float) -> Array:
    """(3, 3): by ``angle`` radians around a unit axis."""
    quaternion, matrix = np.empty(4), np.empty(9)
    mujoco.mju_axisAngle2Quat(quaternion, np.array(axis, np.float64), angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)
