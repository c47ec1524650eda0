"""What the scripted experts can do with one hand, each step decided by what is true then."""

import numpy as np

from fathom.simulation.environment import Array
from fathom.simulation.libero.expert_grasp import TIP, Grasp, plan_grasp, top_between
from fathom.simulation.libero.expert_scene import Scene

CLOSING = 10
"""Actions that the fingers take to close at most."""
OPENING = 6
CLEARANCE = 0.03
SLOPE = 5.0


class PickAndPlace:
    """Takes an object from above and brings it to where a predicate of the goal (``on`` or ``in``) wants it.

    Args:
        scene: the world.
        fact: (predicate, object, place).
    """

    def __init__(self, scene: Scene, fact: list[str]) -> None:
        self._scene = scene
        self._fact = fact
        self._thing, self._place = fact[1], fact[2]
        self._closed = False
        self._since = OPENING
        self._frozen = scene.hand, scene.hand_axes[:, 0]
        self._grasp: tuple[Array, Array] | None = None

    def __call__(self) -> Array:
        """The action for now."""
        scene = self._scene
        self._since += 1
        if not self._closed:
            if self._since <= OPENING:
                return self._hold()
            if scene.true(self._fact):
                return self._rise()
            return self._approach()
        if scene.holds(self._thing) and (self._since > 4):
            return self._carry()
        if self._since <= CLOSING:
            return self._hold()
        self._grip(False)
        return self._hold()

    def _grip(self, closed: bool) -> None:
        self._closed, self._since, self._grasp = closed, 0, None
        self._frozen = self._scene.hand, self._scene.hand_axes[:, 0]

    def _hold(self) -> Array:
        return self._scene.move(*self._frozen, self._closed)

    def _rise(self) -> Array:
        return self._scene.move(self._scene.hand + np.array([0, 0, 0.05]), self._scene.hand_axes[:, 0], self._closed)

    def _approach(self) -> Array:
        scene = self._scene
        grasp = self._planned()
        off = grasp.point - scene.hand
        away = float(np.linalg.norm(off[:2]))
        if away < 0.01 and abs(off[2]) < 0.008:
            self._grip(True)
            return self._hold()
        obstacles = scene.obstacles()
        top = top_between(obstacles, scene.hand, grasp.point, 0.07)
        clear = max(top + TIP + CLEARANCE, grasp.point[2] + 0.05)
        return scene.move(_funnel(scene.hand, grasp.point, clear, 0.006), grasp.axis, False)

    def _carry(self) -> Array:
        scene = self._scene
        boxes = scene.boxes(self._thing)
        low, _ = boxes.bounds()
        bottom = float(low[:, 2].min())
        place = scene.position(self._place)
        at = scene.position(self._thing)
        hang = scene.hand[2] - bottom
        support = self._support(place)
        fingers = max(
            top_between(scene.obstacles(self._thing), tip, tip, 0.02)
            for tip in (place + scene.hand - at + s * 0.05 * scene.hand_axes[:, 0] for s in (-1, 1))
        )
        release = max(support + hang, fingers + TIP + 0.005)
        target = np.append(scene.hand[:2] + place[:2] - at[:2], release)
        away = float(np.linalg.norm(place[:2] - at[:2]))
        if away < 0.015 and scene.hand[2] < release + 0.008:
            self._grip(False)
            return self._hold()
        top = top_between(scene.obstacles(self._thing), at, place, 0.09)
        clear = max(top + hang + CLEARANCE, release)
        return scene.move(_funnel(scene.hand, target, clear, 0.01), scene.hand_axes[:, 0], True)

    def _support(self, place: Array) -> float:
        return top_between(self._scene.boxes(self._place), place, place, 0.005)

    def _planned(self) -> Grasp:
        scene = self._scene
        if self._grasp is None:
            grasp = plan_grasp(
                scene.boxes(self._thing),
                scene.obstacles(self._thing),
                scene.hand,
                scene.hand_axes[:, 0],
                scene.position(self._place) - scene.position(self._thing),
                scene.shoulder,
            )
            axes = scene.axes(self._thing)
            self._grasp = axes.T @ (grasp.point - scene.position(self._thing)), axes.T @ grasp.axis
        axes = scene.axes(self._thing)
        return Grasp(scene.position(self._thing) + axes @ self._grasp[0], axes @ self._grasp[1])


def _funnel(hand: Array, target: Array, clear: float, free: float) -> Array:
    """Where to go for now on the way to a target that must be reached from above, (3,).

    The further the hand is aside (beyond ``free`` metres), the higher it should be, up to ``clear``; while it is too low
    for that, it does not move sideways.
    """
    aside = float(np.linalg.norm((target - hand)[:2]))
    height = min(max(clear, target[2]), target[2] + SLOPE * max(0.0, aside - free))
    share = np.clip(1.0 - (height - hand[2] - 0.01) / 0.04, 0.0, 1.0)
    return np.append(hand[:2] + share * (target - hand)[:2], height)
