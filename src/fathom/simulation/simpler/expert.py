"""Scripted experts for the WidowX: pick a thing up and put it somewhere, by looking at the simulator's true state."""

from dataclasses import dataclass

import numpy as np

from fathom.simulation.environment import Array
from fathom.simulation.simpler import conventions
from fathom.simulation.simpler.widowx import WidowXEnv

_STEP = 0.03
"""Metres that the hand's aim moves in one action, at most."""
_TURN = 0.25
"""Radians that it turns in one action, at most."""
_CLOSING = 3
"""Actions that the fingers take to close."""


@dataclass(frozen=True)
class Grip:
    """How one thing is picked and placed; lengths in metres, heights in the base frame.

    Attributes:
        along: where it is grasped, from its middle along its own x axis (the spoon by its handle).
        spot: how near that place, from above, the hand has to be.
        floor: the hand's lowest height.
        symmetry: radians after which it looks the same to the fingers.
        carry: the hand's height on the way.
        drop: the thing's middle above the target's when it is let go.
        spread: how near the target's middle the thing has to be then.
    """

    along: float
    spot: float
    floor: float
    symmetry: float
    carry: float
    drop: float
    spread: float


_GRIPS = {
    "widowx_spoon_on_towel": Grip(0.03, 0.01, 0.01, np.pi, 0.10, 0.025, 0.02),
    "widowx_carrot_on_plate": Grip(0.0, 0.01, 0.01, np.pi, 0.10, 0.03, 0.015),
    "widowx_stack_cube": Grip(0.0, 0.006, 0.01, np.pi / 2, 0.10, 0.031, 0.004),
    "widowx_put_eggplant_in_basket": Grip(0.0, 0.01, 0.07, np.pi, 0.22, 0.05, 0.03),
}


class ScriptedExpert:
    """Solves one of the four tasks. What to do next follows from where things are, so it recovers from disturbances."""

    def __init__(self, env: WidowXEnv) -> None:
        self._env = env
        self._grip = _GRIPS[env.task]
        self._closed_for = 0  # actions since the fingers were told to close; 0 while they are open
        self._was_at = env.hand()[:3]

    def __call__(self) -> Array:
        """The action for now, float32 (7,)."""
        thing, target, hand = self._env.source(), self._env.target()[:3], self._env.hand()[:3].copy()
        stands, self._was_at = np.linalg.norm(hand - self._was_at) < 0.002, hand
        grasp, yaw = self._grasp(thing)
        if self._closed_for > _CLOSING and np.linalg.norm(hand - grasp) > 0.035:
            self._closed_for = 0  # it has slipped away
        if self._closed_for:
            return self._carry(hand, thing[:3], target)
        if self._is_placed(thing[:3], target):
            return self._action(np.array([*hand[:2], self._grip.carry]), self._yaw(), opening=1.0)
        return self._pick(hand, grasp, yaw, bool(stands))

    def _pick(self, hand: Array, grasp: Array, yaw: float, stands: bool) -> Array:
        """Through a funnel over the thing: the further off to the side, the higher."""
        off = float(np.linalg.norm(hand[:2] - grasp[:2])) + 0.05 * abs(yaw - self._yaw())
        # a hand that stands just above has met something: it gets no lower
        if off < self._grip.spot and hand[2] - grasp[2] < (0.02 if stands else 0.008):
            self._closed_for = 1
            return self._action(grasp, yaw, opening=0.0)
        height = min(max(self._grip.carry, hand[2]), grasp[2] + 3 * max(0.0, off - self._grip.spot))
        return self._action(np.array([*grasp[:2], height]), yaw, opening=1.0)

    def _carry(self, hand: Array, thing: Array, target: Array) -> Array:
        """Up, over, down through a funnel over the target, and let go."""
        self._closed_for += 1
        if self._closed_for <= _CLOSING:
            return self._action(self._env.aim()[:3], self._yaw(), opening=0.0)
        away = target[:2] - thing[:2]
        off = max(0.0, float(np.linalg.norm(away)) - self._grip.spread)
        above = thing[2] - target[2] - self._grip.drop
        if off == 0 and above < 0.003:
            self._closed_for = 0
            return self._action(hand, self._yaw(), opening=1.0)
        height = min(self._grip.carry, hand[2] - above + 3 * off)
        risen = np.clip((hand[2] - height + 0.06) / 0.04, 0.0, 1.0)  # not to the side before it is clear of things
        return self._action(np.array([*(hand[:2] + risen * away), height]), self._yaw(), opening=0.0)

    def _is_placed(self, thing: Array, target: Array) -> bool:
        """Whether it lies where it was let go, or lower."""
        near = np.linalg.norm(target[:2] - thing[:2]) < self._grip.spread + 0.01
        return bool(near and 0.005 < thing[2] - target[2] < self._grip.drop + 0.01)

    def _grasp(self, thing: Array) -> tuple[Array, float]:
        """Where the hand has to be, and its yaw: the fingers close across the thing's own x axis."""
        axis = conventions.matrix_of_quaternion(thing[3:])[:, 0]
        place = thing[:3] + self._grip.along * axis
        place[2] = max(place[2], self._grip.floor)
        turn = np.arctan2(axis[1], axis[0]) - self._yaw()
        symmetry = self._grip.symmetry
        return place, self._yaw() + (turn + symmetry / 2) % symmetry - symmetry / 2

    def _yaw(self) -> float:
        hand = conventions.matrix_of_quaternion(self._env.aim()[3:]) @ conventions.POINTING_DOWN.T
        return float(conventions.rpy_of_matrix(hand)[2])

    def _action(self, place: Array, yaw: float, opening: float) -> Array:
        """The step of the hand's aim towards a place and a yaw, pointing straight down."""
        aim = self._env.aim()
        step = place - aim[:3]
        step *= min(1.0, _STEP / max(float(np.linalg.norm(step)), 1e-9))
        wanted = conventions.matrix_of_rpy(np.array([0.0, 0.0, yaw])) @ conventions.POINTING_DOWN
        turn = conventions.rpy_of_matrix(wanted @ conventions.matrix_of_quaternion(aim[3:]).T)
        return np.array([*step, *np.clip(turn, -_TURN, _TURN), opening], np.float32)
