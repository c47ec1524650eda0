"""Where to take hold of a thing and how high to carry it: geometry alone, no simulator."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fathom.simulation.environment import Array

WIDEST = 0.068
"""Metres: what fits well between the open fingers, which are 0.076 apart."""

REACH = 0.03
"""Metres that the fingertips go down beside a thing; at 0.04 the palm would touch its top."""

TIP = 0.012
"""Metres from the point between the fingertips, which is what the arm controls, down to their ends."""

EASY = 0.70
"""Metres from the shoulder, seen from above, up to which the arm goes everywhere with its fingers down."""

RIM_DEPTH = 0.026
"""Metres below a rim at which it is taken."""

UP = np.array([0.0, 0.0, 1.0])

_FINGER, _PALM, _WRIST = (0.051, 0.025), (0.08, 0.045), (0.0, 0.08)
_HAND = (
    *((_FINGER, above) for above in (0.0, 0.035, 0.1, 0.17)),
    *((_PALM, above) for above in (0.07, 0.13, 0.19)),
    (_WRIST, 0.17),
)
"""Points of the hand on its way down: (metres aside of the grasp, metres from obstacles), metres above the grasp."""

RIM_INSET = 0.012
"""A rim is taken with the hand this far inside it, so that the outer finger needs little room."""


@dataclass(frozen=True)
class Boxes:
    """Solid boxes, in metres: ``centers`` (N, 3), ``axes`` (N, 3, 3) with the axes as columns, half sizes (N, 3)."""

    centers: Array
    axes: Array
    halves: Array

    def __len__(self) -> int:
        return len(self.centers)

    def select(self, which: Array) -> "Boxes":
        """Those of a mask or of indices."""
        return Boxes(self.centers[which], self.axes[which], self.halves[which])

    def corners(self) -> Array:
        """(N, 8, 3)."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        offsets: Array = np.einsum("nij,nkj->nki", self.axes, signs * self.halves[:, None])
        return offsets + self.centers[:, None]

    def bounds(self) -> tuple[Array, Array]:
        """Lowest and highest x, y, z of each, (N, 3) both."""
        reach = np.abs(self.axes * self.halves[:, None]).sum(-1)
        return self.centers - reach, self.centers + reach

    def distance(self, point: Array) -> float:
        """Metres from a point (3,) to the nearest box; 0 inside, infinite without boxes."""
        local = np.einsum("nij,ni->nj", self.axes, point - self.centers)
        return float(np.linalg.norm(np.maximum(np.abs(local) - self.halves, 0.0), axis=-1).min(initial=np.inf))


@dataclass(frozen=True)
class Grasp:
    """The point between the fingertips, (3,), and the horizontal axis along which they close, (3,)."""

    point: Array
    axis: Array


def plan_grasp(
    thing: Boxes,
    obstacles: Boxes,
    hand: Array,
    axis: Array,
    carry: Array,
    shoulder: Array,
    failed: Sequence[Grasp] = (),
) -> Grasp:
    """How to take hold of a thing from above: across it where it fits between the fingers, else by its rim.

    Args:
        thing: its collision boxes.
        obstacles: that the fingers and the palm should keep away from.
        hand, axis: where the hand is and along what its fingers close now, (3,) both; near grasps are better.
        carry: the way, (3,), that the thing will be carried: the hand should reach both ends with ease.
        shoulder: where the arm begins, (3,).
        failed: grasps that did not hold, as they were; others are better.
    """
    low, high = thing.bounds()
    bottom, top = float(low[:, 2].min()), float(high[:, 2].max())
    height = max(top - REACH, bottom + TIP)
    band = thing.select((low[:, 2] < height + TIP) & (high[:, 2] > height - TIP))
    options = list(_across(band, height)) or list(_rims(thing, max(top - RIM_DEPTH, bottom + TIP)))
    grasps = [(_wound_least(grasp, shoulder), width) for grasp, width in options]

    def cost(option: tuple[Grasp, float]) -> float:
        """In radians of turning the hand: what else is bad about a grasp is weighed against that."""
        grasp, width = option
        turn = np.arccos(np.clip(grasp.axis @ axis, -1, 1))
        way = np.linalg.norm((grasp.point - hand)[:2])
        ends = (grasp.point, grasp.point + carry)
        far = sum(max(0.0, float(np.linalg.norm((end - shoulder)[:2])) - EASY) for end in ends)
        again = sum(float(np.linalg.norm(grasp.point - other.point)) < 0.02 for other in failed)
        return float(turn + 3.0 * way + again + 30.0 * width + 60.0 * far + 200.0 * _crowding(grasp, obstacles))

    return min(grasps, key=cost)[0]


def _across(band: Boxes, height: float) -> Iterator[tuple[Grasp, float]]:
    """Grasps with the whole thing between the fingers, and the width between them."""
    corners = band.corners().reshape(-1, 3)[:, :2]
    for angle in np.arange(0.0, np.pi, np.pi / 24):
        axis = np.array([np.cos(angle), np.sin(angle)])
        side = np.array([-axis[1], axis[0]])
        along, beside = corners @ axis, corners @ side
        width = float(np.ptp(along))
        if width <= WIDEST:
            middle = axis * (along.min() + along.max()) / 2 + side * (beside.min() + beside.max()) / 2
            yield Grasp(np.append(middle, height), np.append(axis, 0.0)), width


def _rims(thing: Boxes, height: float) -> Iterator[tuple[Grasp, float]]:
    """Grasps of the rim of a round thing, one finger inside."""
    corners = thing.corners().reshape(-1, 3)[:, :2]
    middle = (corners.min(0) + corners.max(0)) / 2
    for angle in np.arange(0.0, 2 * np.pi, np.pi / 12):
        outward = np.array([np.cos(angle), np.sin(angle)])
        radius = float(((corners - middle) @ outward).max()) - RIM_INSET
        yield Grasp(np.append(middle + radius * outward, height), np.append(outward, 0.0)), 0.0


def _wound_least(grasp: Grasp, shoulder: Array) -> Grasp:
    """The same grasp, the way round in which the last joint is nearer to the middle of its range.

    In the middle, the fingers close along an axis turned by 135 degrees from the arm's own direction.
    """
    forward = grasp.point - shoulder
    middle = np.array([-forward[0] - forward[1], forward[0] - forward[1], 0.0])
    return grasp if grasp.axis @ middle >= 0 else Grasp(grasp.point, -grasp.axis)


def _crowding(grasp: Grasp, obstacles: Boxes) -> float:
    """Metres by which open fingers and palm come nearer to obstacles than they should."""
    total = 0.0
    for sign in (-1, 1):
        for (aside, enough), above in _HAND:
            total += max(0.0, enough - obstacles.distance(grasp.point + sign * aside * grasp.axis + above * UP))
    return total


def top_between(obstacles: Boxes, start: Array, end: Array, width: float) -> float:
    """The highest z of the boxes within ``width`` metres of the straight way from x, y to x, y; -inf for none."""
    low, high = obstacles.bounds()
    way = np.linspace(start[:2], end[:2], 2 + int(np.linalg.norm(end[:2] - start[:2]) / 0.02))
    outside = np.maximum(np.maximum(low[:, None, :2] - way, way - high[:, None, :2]), 0.0)
    near = np.linalg.norm(outside, axis=-1).min(-1) < width
    return float(high[near, 2].max(initial=-np.inf))


def is_under(thing: Boxes, obstacles: Boxes, margin: float) -> bool:
    """Whether something would be hit, at less than half a metre, if the thing were lifted straight up."""
    low, high = thing.bounds()
    lowest, highest = low.min(0), high.max(0)
    others_low, others_high = obstacles.bounds()
    over = (others_low[:, :2] < highest[:2] + margin).all(1) & (others_high[:, :2] > lowest[:2] - margin).all(1)
    return bool((over & (others_low[:, 2] > highest[2]) & (others_low[:, 2] < highest[2] + 0.5)).any())


def turn_between(present: Array, wanted: Array) -> Array:
    """The rotation vector (3,), in radians and the world's frame, that takes one rotation matrix to another."""
    turn = wanted @ present.T
    angle = np.arccos(np.clip((np.trace(turn) - 1) / 2, -1.0, 1.0))
    vector = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    length = np.linalg.norm(vector)
    return vector * (angle / length) if length > 1e-9 else np.zeros(3)
