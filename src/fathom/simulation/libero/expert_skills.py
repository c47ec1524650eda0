"""What the scripted experts can do with one hand.

Each action is decided by what is true then: where things are and whether the fingers hold them. All that is remembered
is whether the fingers should be open or closed, since when, and which grasps failed. So a disturbance, or a thing that
slips, leads back to where the work must be taken up again.
"""

from abc import ABC, abstractmethod

import numpy as np

from fathom.simulation.environment import Array
from fathom.simulation.libero.expert_grasp import TIP, UP, Grasp, is_under, plan_grasp, top_between
from fathom.simulation.libero.expert_scene import UNIT, Scene

CLOSING = 18
"""Actions after which closing fingers hold something or never will."""

SHUT = 0.003
"""Metres between fingers that have nothing between them; a bowl's rim is twice as thick."""

STILL = 0.05
"""Metres per second: fingers that touch a thing and move more slowly have a firm hold of it."""

LOST = 3
"""Actions without touch after which a thing that was held counts as lost."""

OPENING = 6
"""Actions that the fingers need to let go."""

PATIENCE = 80
"""Actions after which a hand that has not arrived tries another grasp."""

CLEARANCE = 0.03
"""Metres between what is carried and what it is carried over."""

SLOPE = 5.0
"""Metres that the hand stays higher for each metre that it is aside of where it will go down."""

NEAR = 0.01
"""Metres from a grasp within which the fingers close."""


class Skill(ABC):
    """Reaches for something, takes hold of it, works with it, lets go and leaves.

    Args:
        scene: the world.
        fact: the predicate of the task's goal that should become true.
        held: the object or fixture that the hand takes hold of.
    """

    def __init__(self, scene: Scene, fact: list[str], held: str) -> None:
        self._scene = scene
        self._fact = fact
        self._held = held
        self._failed: list[Grasp] = []
        self._held_for: int
        self._grip(False)
        self._since = OPENING

    def __call__(self) -> Array:
        """The action for now, float32 (7,) in [-1, 1]."""
        self._since += 1
        if not self._closed:
            if self._since <= OPENING:
                return self._stay()
            return self._leave() if self._achieved() else self._reach()
        if self._has_hold():
            return self._work()
        if self._since > CLOSING or self._scene.opening < SHUT:
            self._failed.append(Grasp(self._scene.hand, self._scene.hand_axes[:, 0]))
            self._grip(False)
        return self._stay()

    @property
    def done(self) -> bool:
        """Whether another skill may begin."""
        return self._achieved() and not self._closed and self._since > OPENING

    def _achieved(self) -> bool:
        """Whether there is nothing left to do for a hand that holds nothing."""
        return self._scene.true(self._fact)

    @abstractmethod
    def _reach(self) -> Array:
        """With open fingers: the way to where they close."""

    @abstractmethod
    def _work(self) -> Array:
        """With the thing between the fingers."""

    def _leave(self) -> Array:
        """With open fingers, when all is done: back, away from where they point."""
        hand, axes = self._scene.hand, self._scene.hand_axes
        return self._scene.move(hand - UNIT * axes[:, 2], axes[:, 0], False, axes[:, 2])

    def _stay(self) -> Array:
        hand, axes = self._where
        return self._scene.move(hand, axes[:, 0], self._closed, axes[:, 2])

    def _has_hold(self) -> bool:
        """Whether the fingers hold the thing; called once per action, because a short loss of touch is forgiven."""
        touched = self._scene.holds(self._held)
        if touched and (self._held_for or self._scene.finger_speed < STILL):
            self._held_for = LOST
        else:
            self._held_for = max(0, self._held_for - 1)
        return self._held_for > 0

    def _grip(self, closed: bool) -> None:
        self._closed, self._since, self._held_for = closed, 0, 0
        self._where = self._scene.hand, self._scene.hand_axes

    def _close_at(self, point: Array) -> bool:
        """Close the fingers if the hand has arrived."""
        off = point - self._scene.hand
        if np.linalg.norm(off[:2]) < NEAR and abs(off[2]) < NEAR:
            self._grip(True)
            self._where = point, self._scene.hand_axes
        return self._closed


class PickAndPlace(Skill):
    """Takes an object from above and brings it to its place; the fact is (``on`` or ``in``, object, place)."""

    def __init__(self, scene: Scene, fact: list[str]) -> None:
        super().__init__(scene, fact, fact[1])
        self._place = fact[2]

    def _grip(self, closed: bool) -> None:
        super()._grip(closed)
        self._planned: tuple[Array, Array] | None = None  # point and axis of the grasp, as seen from the object

    def _reach(self) -> Array:
        scene = self._scene
        grasp = self._grasp()
        if self._close_at(grasp.point):
            return self._stay()
        if self._since % PATIENCE == 0:
            self._failed.append(grasp)
            self._planned = None
        top = top_between(scene.obstacles(), scene.hand, grasp.point, 0.07)
        clear = max(top + TIP + CLEARANCE, grasp.point[2] + 0.05)
        return scene.move(from_above(scene.hand, grasp.point, clear, 0.006), grasp.axis, False)

    def _work(self) -> Array:
        scene = self._scene
        at, place = scene.position(self._held), scene.position(self._place)
        others = scene.obstacles(self._held)
        bottom = float(scene.boxes(self._held).bounds()[0][:, 2].min())
        if bottom < scene.floor + 0.05 and is_under(scene.boxes(self._held), others, 0.01):
            return self._come_out()
        hang = float(scene.hand[2]) - bottom
        target = np.append((scene.hand + place - at)[:2], self._release_height(hang))
        if np.linalg.norm((place - at)[:2]) < 0.015 and scene.hand[2] < target[2] + 0.008:
            self._grip(False)
            return self._stay()
        clear = max(top_between(others, at, place, 0.09) + hang + CLEARANCE, target[2])
        return scene.move(from_above(scene.hand, target, clear, 0.01), scene.hand_axes[:, 0], True)

    def _come_out(self) -> Array:
        """From under an open drawer: towards the arm, hardly lifted."""
        hand, axes = self._scene.hand, self._scene.hand_axes
        back = (self._scene.shoulder - hand) * (1, 1, 0)
        return self._scene.move(hand + UNIT * back / np.linalg.norm(back) + 0.2 * UNIT * UP, axes[:, 0], True)

    def _release_height(self, hang: float) -> float:
        """Of the hand: the thing stands where it should, unless the fingers would touch something around it."""
        scene = self._scene
        place = scene.position(self._place)
        support = max(top_between(scene.boxes(self._place), place, place, 0.005), scene.floor)
        middle = scene.hand + place - scene.position(self._held)
        tips = [middle + sign * 0.05 * scene.hand_axes[:, 0] for sign in (-1, 1)]
        around = max(top_between(scene.obstacles(self._held), tip, tip, 0.02) for tip in tips)
        return max(support + hang, around + TIP + 0.005)

    def _grasp(self) -> Grasp:
        """Planned once per attempt; it follows the object if that moves."""
        scene = self._scene
        at, axes = scene.position(self._held), scene.axes(self._held)
        if self._planned is None:
            grasp = plan_grasp(
                scene.boxes(self._held),
                scene.obstacles(self._held),
                scene.hand,
                scene.hand_axes[:, 0],
                scene.position(self._place) - at,
                scene.shoulder,
                self._failed,
            )
            self._planned = axes.T @ (grasp.point - at), axes.T @ grasp.axis
        point, axis = self._planned
        return Grasp(at + axes @ point, axes @ axis)


def from_above(hand: Array, target: Array, clear: float, free: float) -> Array:
    """Where to go for now on the way to a target that must be reached from above, (3,).

    The further the hand is aside (beyond ``free`` metres), the higher it should be, up to ``clear``; while it is too
    low for that, it does not move sideways.
    """
    off = (target - hand)[:2]
    aside = float(np.linalg.norm(off))
    height = min(max(clear, target[2]), target[2] + SLOPE * max(0.0, aside - free))
    share = float(np.clip(1.0 - (height - hand[2] - 0.01) / 0.03, 0.0, 1.0))
    return np.append(hand[:2] + off * share * min(1.0, UNIT / max(aside, UNIT)), height)
