"""Where the pixels of a depth map lie in space, and what can be measured on those of one object."""

from dataclasses import dataclass
from math import cos, radians, sin, tan

import numpy as np
from jaxtyping import Bool, Float

DepthMap = Float[np.ndarray, "height width"]
Mask = Bool[np.ndarray, "height width"]

_STEP = 0.03
"""Where depth falls by this share or more from one pixel to the next, something stands in front; a table that is seen
from above comes nearer by about 1 % a pixel in a picture of 128 pixels."""
_HIDDEN_OUTLINE = 0.05
"""An object counts as whole if no more than this share of its outline is hidden: single pixels decide nothing."""


@dataclass(frozen=True)
class View:
    """A pinhole camera that looks at the middle of its picture and is not rolled to a side.

    Attributes:
        fovy: vertical field of view, degrees.
        fovx: horizontal one, where pixels are not square; by default they are.
        tilt: degrees by which it looks down from the horizontal; without it no height is known.
    """

    fovy: float
    fovx: float | None = None
    tilt: float | None = None

    def focal_lengths(self, height: int, width: int) -> tuple[float, float]:
        """Horizontal and vertical, in pixels of a picture of that size."""
        vertical = height / 2 / tan(radians(self.fovy) / 2)
        return (vertical if self.fovx is None else width / 2 / tan(radians(self.fovx) / 2)), vertical

    def directions(self, height: int, width: int) -> Float[np.ndarray, "height width 2"]:
        """For the middle of each pixel x/z and y/z: to the right and downwards, per metre along the optical axis."""
        horizontal, vertical = self.focal_lengths(height, width)
        x = (np.arange(width) + 0.5 - width / 2) / horizontal
        y = (np.arange(height) + 0.5 - height / 2) / vertical
        return np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)


@dataclass(frozen=True)
class Extent:
    """What is seen of one object: a box in the camera's axes, x to the right, y down, z along the optical axis.

    Attributes:
        low, high: corners of the box, metres.
        window: left, top, right and bottom edge in the picture, as x/z and y/z.
        width: from side to side as the camera sees it, metres; ``None`` where it cannot be measured.
        height: along the vertical of the world, likewise.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    window: tuple[float, float, float, float]
    width: float | None
    height: float | None

    @property
    def middle(self) -> Float[np.ndarray, "3"]:
        return (np.array(self.low) + np.array(self.high)) / 2

    @property
    def radius(self) -> float:
        """Half of the box's diagonal, metres."""
        return float(np.linalg.norm(np.array(self.high) - np.array(self.low)) / 2)

    @property
    def distance(self) -> float:
        """From the camera to the middle, metres: Euclidean, not along the axis."""
        return float(np.linalg.norm(self.middle))


def measure(own: Mask, depth: DepthMap, view: View, *, whole: bool, least_pixels: int) -> Extent:
    """The extent of the object whose pixels are ``own``; each has a depth.

    Width and height are those of a whole object only, and only if it spans ``least_pixels`` that way. Pixels are seen
    at their middles, so that a pixel's size is added where the outermost ones are counted.
    """
    rows, columns = np.nonzero(own)
    z = depth[rows, columns].astype(np.float64)
    directions = view.directions(*depth.shape)[rows, columns]
    points = np.column_stack([directions * z[:, None], z])
    pixel_x, pixel_y = (float(np.median(z)) / focal for focal in view.focal_lengths(*depth.shape))
    width = height = None
    if whole and np.ptp(columns) + 1 >= least_pixels:
        width = float(np.ptp(points[:, 0])) + pixel_x
    if whole and view.tilt is not None and np.ptp(rows) + 1 >= least_pixels:
        tilt = radians(view.tilt)
        height = float(np.ptp(points @ (0.0, -cos(tilt), -sin(tilt)))) + pixel_y * cos(tilt)
    (left, top), (right, bottom) = directions.min(axis=0).tolist(), directions.max(axis=0).tolist()
    (x0, y0, z0), (x1, y1, z1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return Extent((x0, y0, z0), (x1, y1, z1), (left, top, right, bottom), width, height)


def is_whole(own: Mask, depth: DepthMap, scenery: Mask) -> bool:
    """Whether an object is in the picture from end to end.

    Args:
        scenery: the pixels of what things stand on or before. That comes nearer along their feet without hiding them;
            anything else that is nearer hides them.
    """
    if own[0].any() or own[-1].any() or own[:, 0].any() or own[:, -1].any():
        return False
    outline, hidden = np.zeros_like(own), np.zeros_like(own)
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        beside = np.roll(own, step, axis) & ~own
        limit = np.roll(depth, step, axis) * np.where(scenery, 1 - _STEP, 1)
        outline |= beside
        hidden |= beside & (depth > 0) & (depth < limit)
    return bool(hidden.sum() <= _HIDDEN_OUTLINE * outline.sum())
