"""Casting rays at the solids: colour, depth and labels of each pixel, from the same rays."""

from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np
from jaxtyping import Float, UInt8

from fathom.vlm.tabletop.solids import COLOURS, Solid, Table

Array = np.ndarray
GROUND = 0
"""The label of the table; the solids follow from 1 on."""

_FARTHEST = 30.0
"""Metres beyond which the table is out of sight, and depth not known."""
_SKY = (0.75, 0.82, 0.9)


@dataclass(frozen=True)
class Rendered:
    """What the camera sees of a scene.

    Attributes:
        rgb: the picture.
        depth: metres along the optical axis; 0 where nothing is.
        labels: what each pixel shows.
        names: of the labels.
    """

    rgb: UInt8[Array, "height width 3"]
    depth: Float[Array, "height width"]
    labels: UInt8[Array, "height width"]
    names: dict[int, str]


@dataclass(frozen=True)
class _Hit:
    """Where rays meet a surface: depth (infinite where they miss) and the surface's normal there."""

    depth: Float[Array, "height width"]
    normal: Float[Array, "height width 3"]


def render(table: Table, size: int) -> Rendered:
    """Look at a scene.

    Args:
        size: side of the square picture in pixels.
    """
    origin, rays = _rays(table, size)
    hits = [_ground(origin, rays), *(_hit(solid, origin, rays) for solid in table.solids)]
    depths = np.stack([hit.depth for hit in hits])
    labels = depths.argmin(axis=0)
    depth = depths.min(axis=0)
    seen = np.isfinite(depth)
    normal = np.take_along_axis(np.stack([hit.normal for hit in hits]), labels[None, ..., None], axis=0)[0]
    colours = np.array([table.ground, *(COLOURS[solid.colour] for solid in table.solids)])
    light = np.array([cos(table.azimuth) * 0.6, sin(table.azimuth) * 0.6, 0.8])
    lit = 0.45 + 0.55 * np.clip(normal @ light, 0, 1)
    rgb = np.where(seen[..., None], colours[labels] * lit[..., None], _SKY)
    names = {GROUND: "table"} | {number: solid.label for number, solid in enumerate(table.solids, 1)}
    return Rendered(
        np.rint(255 * rgb.clip(0, 1)).astype(np.uint8),
        np.where(seen, depth, 0).astype(np.float32),
        np.where(seen, labels, GROUND).astype(np.uint8),
        names,
    )


def _rays(table: Table, size: int) -> tuple[Float[Array, "3"], Float[Array, "size size 3"]]:
    """Where the camera is, and each pixel's ray, as long as 1 metre of depth."""
    tilt = radians(table.view.tilt or 0.0)
    forward = np.array([0.0, cos(tilt), -sin(tilt)])
    right, down = np.array([1.0, 0.0, 0.0]), np.array([0.0, -sin(tilt), -cos(tilt)])
    x, y = np.moveaxis(table.view.directions(size, size), -1, 0)
    rays = x[..., None] * right + y[..., None] * down + forward
    return -table.distance * forward, rays


def _ground(origin: Array, rays: Array) -> _Hit:
    with np.errstate(divide="ignore"):
        depth = -origin[2] / rays[..., 2]
    depth = np.where((depth > 0) & (depth < _FARTHEST), depth, np.inf)
    return _Hit(depth, np.broadcast_to([0.0, 0.0, 1.0], rays.shape))


def _hit(solid: Solid, origin: Array, rays: Array) -> _Hit:
    """In the solid's own axes, scaled so that it is a unit ball, a unit box, or a unit can."""
    half = np.array(solid.half_size)
    turn = np.array([[cos(solid.yaw), sin(solid.yaw), 0], [-sin(solid.yaw), cos(solid.yaw), 0], [0, 0, 1]])
    start = turn @ (origin - [*solid.place, half[2]]) / half
    steps = rays @ turn.T / half
    if solid.shape == "ball":
        depth, normal = _ball(start, steps)
    elif solid.shape == "box":
        depth, normal = _box(start, steps)
    else:
        depth, normal = _can(start, steps)
    normal = (normal / half) @ turn
    return _Hit(depth, normal / np.linalg.norm(normal, axis=-1, keepdims=True).clip(1e-9))


def _ball(start: Array, steps: Array) -> tuple[Array, Array]:
    depth = _first_root((steps**2).sum(-1), steps @ start, start @ start - 1)
    return depth, start + _finite(depth)[..., None] * steps


def _box(start: Array, steps: Array) -> tuple[Array, Array]:
    steps = np.where(np.abs(steps) < 1e-12, 1e-12, steps)  # rays along a side meet it far away
    entries, exits = (-np.sign(steps) - start) / steps, (np.sign(steps) - start) / steps
    depth = entries.max(axis=-1)
    depth = np.where((depth > 0) & (depth <= exits.min(axis=-1)), depth, np.inf)
    first = np.arange(3) == entries.argmax(axis=-1)[..., None]
    return depth, -np.sign(steps) * first


def _can(start: Array, steps: Array) -> tuple[Array, Array]:
    flat, flat_steps = start[:2], steps[..., :2]
    side = _first_root((flat_steps**2).sum(-1), flat_steps @ flat, flat @ flat - 1)
    side = np.where(np.abs(start[2] + _finite(side) * steps[..., 2]) <= 1, side, np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        top = (1 - start[2]) / steps[..., 2]
    at_top = flat + _finite(top)[..., None] * flat_steps
    top = np.where((top > 0) & ((at_top**2).sum(-1) <= 1), top, np.inf)
    depth = np.minimum(side, top)
    outwards = start + _finite(depth)[..., None] * steps
    normal = np.where((side <= top)[..., None], outwards * [1.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    return depth, normal


def _first_root(a: Array, half_b: Array, c: float) -> Array:
    """The smaller root of a t² + 2 half_b t + c, where it is positive; else infinite."""
    inside = half_b**2 - a * c
    root = (-half_b - np.sqrt(inside.clip(0))) / a
    return np.where((inside > 0) & (root > 0), root, np.inf)


def _finite(depth: Array) -> Array:
    return np.where(np.isfinite(depth), depth, 0.0)
