"""Perturbations of ManiSkill's Bridge twins, where the table and all behind it are a photograph.

Lamps, camera and distractors are the simulator's. The photograph follows: it is dimmed and coloured like what is
simulated, painted where the table is seen and where it is not, and warped as the table's plane moves in the picture
when the camera does. Lamps keep their places, since the photograph's shadows do. Physics is untouched: distractors are
drawn bodies that nothing touches; ellipsoids are balls here.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import sapien

from fathom.simulation.environment import Array
from fathom.simulation.perturbation import Distractor, Draw, Surface
from fathom.simulation.simpler.pictures import CAMERA, TwinCamera

_TABLES = {
    "bridge_real_eval_1": ((0.27, 0.155), (1.0, 0.47), (1.0, 1.0), (0.29, 1.0), (0.0, 0.64), (0.0, 0.37)),
    "bridge_sink": ((0.0, 0.46), (0.26, 0.17), (0.97, 0.32), (0.9, 1.0), (0.0, 1.0)),
}
"""Outlines of the table (the sink, and the board before it) in the photographs; 1 is the side of a picture."""

_KEPT = {"bridge_sink": ((0.0, 0.45), (0.25, 0.16), (0.48, 0.19), (0.49, 0.29), (0.28, 0.61))}
"""What the task is about and the photograph alone shows: the basket."""

_STANDING_ROOM = {"bridge_sink": ((0.0, 0.68), (0.4, 1.0), (0.0, 1.0))}
"""The part of it that distractors stand on, where that is not all."""

_TILE = 0.6
"""Metres of table that a pattern covers before it repeats."""

_AROUND = 0.05
"""Metres around the objects, and between them, that stay in sight."""

_SIZE = 0.6
"""The twins' things are smaller than other simulators', and so are distractors."""

_SHIFT = 0.4
"""Of what a draw moves the camera by: the twins' stands at the robot's side, and the arm must not come before it."""

_GAMMA = 2.2
"""Pictures store light to the power of 1 / 2.2; the simulator computes with light itself."""


class TwinPerturber:
    """Changes how one twin looks, episode by episode.

    Args:
        world: the ManiSkill environment.
        camera: that looks at it.
        photograph: the file of its background.
    """

    def __init__(self, world: Any, camera: TwinCamera, photograph: str) -> None:
        self._world = world
        self._scene = world.scene.sub_scenes[0]
        self._eye = world.scene.sensors[CAMERA].camera
        self._camera = camera
        self._photograph = camera.photograph
        self._table_height = float(world.agent.robot.pose.sp.p[2])  # where the robot stands
        stem = Path(photograph).stem
        kept = _filled(_KEPT.get(stem, ((0.0, 0.0),)), self._photograph.shape)
        self._table = _filled(_TABLES[stem], self._photograph.shape) & ~kept
        self._behind = ~self._table & ~kept
        self._room = _filled(_STANDING_ROOM.get(stem, _TABLES[stem]), self._photograph.shape)
        self._own_pose = self._eye.get_local_pose().sp
        self._global_pose = self._eye.global_pose.sp
        self._own_colours = [(lamp, np.array(lamp.color)) for lamp in self._lamps()]
        self._own_ambient = np.array(self._scene.ambient_light)
        self._standing: list[sapien.Entity] = []

    def restart(self, draw: Draw) -> None:
        """Undo the last episode's changes and make this one's; its first state has been set."""
        for entity in self._standing:
            self._scene.remove_entity(entity)
        self._standing = [self._stand(*found) for found in self._arrange(draw)]
        self._camera.show(entity.per_scene_id for entity in self._standing)
        for lamp, colour in self._own_colours:
            lamp.color = colour * draw.gain
        self._scene.ambient_light = self._own_ambient * draw.gain
        photograph = self._photograph.astype(np.float32)
        plane = self._plane(self._global_pose)
        if draw.table:
            _blend(photograph, draw.table, self._table, np.linalg.inv(plane), _TILE)
        if draw.background:
            _blend(photograph, draw.background, self._behind, np.eye(3), float(photograph.shape[0]))
        self._eye.set_local_pose(self._own_pose)
        if draw.azimuth or draw.elevation or draw.distance != 1:
            moved = self._moved(draw)
            self._eye.set_local_pose(self._own_pose * self._global_pose.inv() * moved)
            warp = self._plane(moved) @ np.linalg.inv(plane)
            size = photograph.shape[1::-1]
            photograph[:] = cv2.warpPerspective(photograph, warp, size, borderMode=cv2.BORDER_REPLICATE)
        gain = np.array(draw.gain) ** (1 / _GAMMA)
        self._camera.photograph = np.rint(np.clip(photograph * gain, 0, 255)).astype(np.uint8)

    def _lamps(self) -> Iterator[Any]:
        for entity in self._scene.entities:
            for part in entity.components:
                if isinstance(part, sapien.render.RenderLightComponent):
                    yield part

    def _plane(self, pose: sapien.Pose) -> Array:
        """(3, 3): from x, y, 1 on the table's plane to the pixels that a camera at this pose sees them in."""
        project = self._project(pose)
        return np.stack([project[:, 0], project[:, 1], self._table_height * project[:, 2] + project[:, 3]], axis=1)

    def _project(self, pose: sapien.Pose) -> Array:
        """(3, 4): from x, y, z, 1 to pixels."""
        axes = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])  # SAPIEN looks along x, pictures along z
        intrinsic: Array = self._eye.get_intrinsic_matrix()[0].numpy()
        return intrinsic @ axes @ pose.inv().to_transformation_matrix()[:3]

    def _moved(self, draw: Draw) -> sapien.Pose:
        """The camera on the sphere around where it looks at the table."""
        matrix = self._global_pose.to_transformation_matrix().astype(np.float64)
        axes, position = matrix[:3, :3], matrix[:3, 3]
        pivot = position + axes[:, 0] * (self._table_height - position[2]) / axes[2, 0]
        around = cv2.Rodrigues(np.array([0.0, 0.0, _SHIFT * draw.azimuth]))[0]
        turn = around @ cv2.Rodrigues(axes[:, 1] * _SHIFT * draw.elevation)[0]
        matrix[:3, :3] = turn @ axes
        matrix[:3, 3] = pivot + draw.distance**_SHIFT * turn @ (position - pivot)
        return sapien.Pose(matrix.astype(np.float32))

    def _arrange(self, draw: Draw) -> Iterator[tuple[Distractor, Array]]:
        """Each distractor and the middle (3,) of its foot: where the photograph shows table, and nothing is hidden."""
        if not draw.distractors:
            return
        project = self._project(self._global_pose)
        to_table = np.linalg.inv(self._plane(self._global_pose))
        objects = np.stack([thing.pose.sp.p for thing in self._world.objs.values()])
        taken = self._camera.foreground()
        taken |= _outline(project, objects.min(axis=0) - _AROUND, objects.max(axis=0) + _AROUND, self._room.shape)
        height, width = self._room.shape
        places = iter(draw.places)
        for drawn in draw.distractors:
            x, y, z = drawn.half_size
            thing = replace(drawn, half_size=(_SIZE * x, _SIZE * y, _SIZE * z))
            for x, y in places:
                spot = to_table @ ((x + 1) / 2 * width, (y + 1) / 2 * height, 1)
                foot = np.array([*(spot[:2] / spot[2]), self._table_height])
                reach = np.array([math.hypot(*thing.half_size[:2])] * 2 + [0.0]) + 0.01
                base = _outline(project, foot - reach, foot + reach, self._room.shape)
                whole = _outline(project, foot - reach, foot + reach + (0, 0, 2 * thing.half_size[2]), self._room.shape)
                if base.any() and self._room[base].all() and not taken[whole].any():
                    taken |= whole
                    yield thing, foot
                    break

    def _stand(self, thing: Distractor, foot: Array) -> sapien.Entity:
        material = sapien.render.RenderMaterial(base_color=[*thing.colour, 1.0])
        x, y, z = thing.half_size
        if thing.shape == "box":
            shape = sapien.render.RenderShapeBox([x, y, z], material)
        elif thing.shape == "cylinder":
            shape = sapien.render.RenderShapeCylinder(x, z, material)
            shape.local_pose = sapien.Pose(q=[math.sqrt(0.5), 0, math.sqrt(0.5), 0])  # SAPIEN's lie along x
        else:
            shape = sapien.render.RenderShapeSphere(z, material)
        body = sapien.render.RenderBodyComponent()
        body.attach(shape)
        entity = sapien.Entity()
        entity.add_component(body)
        yaw = [math.cos(thing.yaw / 2), 0, 0, math.sin(thing.yaw / 2)]
        entity.set_pose(sapien.Pose(foot + np.array([0, 0, z]), yaw))
        self._scene.add_entity(entity)
        return entity


def _filled(outline: tuple[tuple[float, float], ...], shape: tuple[int, ...]) -> Array:
    """bool (H, W)."""
    corners = np.rint(np.array(outline) * (shape[1], shape[0])).astype(np.int32)
    return cv2.fillPoly(np.zeros(shape[:2], np.uint8), [corners], 1).astype(bool)


def _outline(project: Array, low: Array, high: Array, shape: tuple[int, ...]) -> Array:
    """Where a box is seen: bool (H, W)."""
    corners = itertools.product(*zip(low, high, strict=True), (1.0,))
    seen = np.array(list(corners)) @ project.T
    hull = cv2.convexHull(np.rint(seen[:, :2] / seen[:, 2:]).astype(np.int32))
    return cv2.fillConvexPoly(np.zeros(shape[:2], np.uint8), hull, 1).astype(bool)


def _blend(photograph: Array, surface: Surface, where: Array, to_surface: Array, tile: float) -> None:
    """Paint a pattern, in place, on a plane to which ``to_surface`` (3, 3) takes pixels."""
    rows, columns = np.nonzero(where)
    x, y, scale = to_surface @ np.stack([columns, rows, np.ones_like(rows)])
    pattern = 255 * surface.pattern(x / scale / tile, y / scale / tile)
    photograph[where] += surface.blend * (pattern - photograph[where])
