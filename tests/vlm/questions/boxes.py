"""Scenes of boxes on a floor, drawn by tracing a ray through the middle of each pixel."""

from dataclasses import dataclass
from math import cos, radians, sin, tan

import numpy as np

from fathom.vlm.questions import View

CAMERA_HEIGHT = 1.0
Corner = tuple[float, float, float]


@dataclass(frozen=True)
class Box:
    """A box in the world (x to the right of the camera, y away from it, z up; the camera stands above the origin)."""

    name: str
    low: Corner
    high: Corner

    @property
    def middle(self) -> np.ndarray:
        return (np.array(self.low) + self.high) / 2

    @property
    def from_camera(self) -> np.ndarray:
        return self.middle - (0, 0, CAMERA_HEIGHT)


def draw(boxes: list[Box], view: View, size: int = 160) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Depth in metres along the optical axis, labels, and their names: the floor is 0."""
    tilt = radians(view.tilt or 0)
    right, down, forward = np.array([[1, 0, 0], [0, -sin(tilt), -cos(tilt)], [0, cos(tilt), -sin(tilt)]])
    slopes = ((np.arange(size) + 0.5) / size * 2 - 1) * tan(radians(view.fovy) / 2)
    across = slopes if view.fovx is None else slopes / tan(radians(view.fovy) / 2) * tan(radians(view.fovx) / 2)
    rays = forward + across[None, :, None] * right + slopes[:, None, None] * down
    eye = np.array([0, 0, CAMERA_HEIGHT])
    depth = np.full((size, size), 9.5)  # a wall
    labels = np.zeros((size, size), np.int32)
    with np.errstate(divide="ignore", invalid="ignore"):
        floor = -eye[2] / rays[..., 2]
        depth = np.where((floor > 0) & (floor < depth), floor, depth)
        for label, box in enumerate(boxes, 1):
            faces = np.stack([(np.array(box.low) - eye) / rays, (np.array(box.high) - eye) / rays])
            enters, leaves = np.nanmax(faces.min(axis=0), axis=-1), np.nanmin(faces.max(axis=0), axis=-1)
            hit = (enters <= leaves) & (enters > 0) & (enters < depth)
            depth, labels = np.where(hit, enters, depth), np.where(hit, label, labels)
    return depth.astype(np.float32), labels, {0: "floor"} | {n: box.name for n, box in enumerate(boxes, 1)}


ORDERLY = [
    Box("red_mug_1", (-0.6, 2.0, 0.0), (-0.4, 2.2, 0.3)),
    Box("plate_1", (0.3, 3.5, 0.0), (0.8, 3.9, 0.2)),
    Box("bowl_1", (-0.3, 3.8, 0.0), (0.0, 4.0, 0.4)),
    Box("bowl_2", (-1.2, 3.8, 0.0), (-0.8, 4.0, 0.4)),
]
"""Nothing hides anything; the two bowls have one name."""
