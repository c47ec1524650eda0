"""Carrying out a perturbation in MuJoCo, on what is drawn: neither the model nor the physics is ever changed."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import mujoco
import numpy as np

from fathom.simulation.environment import Array
from fathom.simulation.perturbation import Draw, Perturbation, Surface
from fathom.simulation.rendering import Camera
from fathom.simulation.staging import Scene, Stage, Standing

_VERTICAL = np.array([0.0, 0.0, 1.0])


class _Look(NamedTuple):
    """What a surface's look is made of: geom ids without a texture of their own, and textures."""

    plain: frozenset[int]
    textures: frozenset[int]


class Perturber:
    """Changes what renderers draw, episode by episode.

    An environment makes one beside its model, calls :meth:`restart` at the start of each episode and gives it to its
    renderers.

    Args:
        cameras: those that do not move; distractors hide nothing from them and stand within sight of the first.
    """

    def __init__(
        self, model: mujoco.MjModel, stage: Stage, perturbation: Perturbation, cameras: Sequence[Camera]
    ) -> None:
        self._model = model
        self._stage = stage
        self._perturbation = perturbation
        self._cameras = tuple(cameras)
        sky = np.nonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX.value)[0]
        self._table = self._look(set(stage.table))
        plain, textures = self._look(set(stage.background))
        self._background = _Look(plain, textures | {int(index) for index in sky})
        self._draw = Draw()
        self._standing: list[Standing] = []
        self.episode = 0
        """Counts restarts, so that a renderer knows when to dress anew."""

    def restart(self, seed: int, data: mujoco.MjData) -> None:
        """Begin the episode of this seed, whose first state ``data`` holds."""
        self._draw = self._perturbation.draw(seed)
        self._standing = list(Scene(self._model, data, self._stage, self._cameras).arrange(self._draw))
        self.episode += 1

    def camera(self, camera: Camera) -> Camera:
        """Where a camera that does not move stands in this episode.

        That is on the sphere around the point of its axis nearest to the workspace's middle, which stays in the middle
        of its picture.
        """
        draw = self._draw
        if draw.azimuth == draw.elevation == 0 and draw.distance == 1:
            return camera
        axes, position = camera.axes(), np.array(camera.position)
        forward = -axes[:, 2]
        pivot = position + forward * (forward @ (self._stage.centre - position))
        turn = _rotation(_VERTICAL, draw.azimuth) @ _rotation(axes[:, 0], -draw.elevation)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, (turn @ axes).ravel())
        x, y, z = (float(value) for value in pivot + draw.distance * turn @ (position - pivot))
        w, i, j, k = (float(value) for value in quaternion)
        return Camera(camera.name, (x, y, z), (w, i, j, k), camera.fovy)

    def hang(self, context: mujoco.MjrContext) -> None:
        """Put this episode's textures into a renderer's context, which must be current."""
        for surface, look in self._surfaces():
            for texture in look.textures:
                self._upload(context, texture, surface)

    def dress(self, scene: mujoco.MjvScene) -> None:
        """Change lights and plain colours and add the distractors, in a scene that has just been updated."""
        self._light(scene)
        for surface, look in self._surfaces():
            for item in scene.geoms[: scene.ngeom]:
                if item.objtype == mujoco.mjtObj.mjOBJ_GEOM and item.objid in look.plain:
                    item.rgba[:3] = surface.tint(item.rgba[:3])
        for standing in self._standing:
            _add(scene, standing)

    def _surfaces(self) -> Iterator[tuple[Surface, _Look]]:
        if self._draw.table:
            yield self._draw.table, self._table
        if self._draw.background:
            yield self._draw.background, self._background

    def _look(self, geoms: set[int]) -> _Look:
        """A texture that other things share is left to them, and the geoms that wear it are tinted."""
        worn = {geom: self._textures_of(geom) for geom in range(self._model.ngeom)}
        shared = set().union(*(textures for geom, textures in worn.items() if geom not in geoms))
        plain = frozenset(geom for geom in geoms if not worn[geom] or worn[geom] & shared)
        return _Look(plain, frozenset(set().union(*(worn[geom] for geom in geoms)) - shared))

    def _textures_of(self, geom: int) -> set[int]:
        material = self._model.geom_matid[geom]
        return set() if material < 0 else {int(index) for index in self._model.mat_texid[material] if index >= 0}

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

    def _light(self, scene: mujoco.MjvScene) -> None:
        turn, centre = _rotation(_VERTICAL, self._draw.turn), self._stage.centre
        for light in scene.lights[: scene.nlight]:
            for part in (light.ambient, light.diffuse, light.specular):
                part[:] *= self._draw.gain
            if self._draw.turn and not light.headlight:
                light.pos[:] = centre + turn @ (light.pos - centre)
                light.dir[:] = turn @ light.dir


def _add(scene: mujoco.MjvScene, standing: Standing) -> None:
    """Draw a distractor, too."""
    thing, position = standing
    kind = {
        "box": mujoco.mjtGeom.mjGEOM_BOX,
        "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
        "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    }[thing.shape]
    x, y, z = thing.half_size
    size = np.array([x, z, 0.0] if thing.shape == "cylinder" else [x, y, z])
    colour = np.array([*thing.colour, 1.0], np.float32)
    item = scene.geoms[scene.ngeom]
    mujoco.mjv_initGeom(item, kind, size, position, _rotation(_VERTICAL, thing.yaw).ravel(), colour)
    # MuJoCo leaves what the place in its list said before.
    item.objtype, item.objid = mujoco.mjtObj.mjOBJ_UNKNOWN.value, -1
    item.segid = scene.ngeom  # so that in the segmentation, too, it hides what lies behind; it is no geom itself
    scene.ngeom += 1


def _rotation(axis: Array, angle: float) -> Array:
    """(3, 3): by ``angle`` radians around a unit axis."""
    quaternion, matrix = np.empty(4), np.empty(9)
    mujoco.mju_axisAngle2Quat(quaternion, axis, angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)
