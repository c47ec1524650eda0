"""What the scripted experts can do with drawers, knobs and plates on a table."""

import numpy as np

from fathom.simulation.environment import Array
from fathom.simulation.libero.expert_grasp import TIP, UP, plan_grasp
from fathom.simulation.libero.expert_scene import DOWN, UNIT, Scene
from fathom.simulation.libero.expert_skills import NEAR, SLOPE, Skill, from_above

PRESS = 0.005
"""Metres below a plate's surface that the fingertips aim at: pressed down, they do not slip over its rim."""

SLOWLY = 0.6
"""Share of the greatest speed at which a plate is dragged."""

TILT = 0.35
"""How much of the hand's direction points down while it takes a handle from the front."""


class OpenDrawer(Skill):
    """Takes the handle of a drawer from the front and pulls; the fact is (``open``, region in the drawer).

    Args:
        scene: the world.
        drawer: a region in it.
        left: how much further it would open when that is enough, in metres. LIBERO calls a drawer open that would open
            less than 0.02 further. Farther out than needed, it would be in the way.
    """

    def __init__(self, scene: Scene, drawer: str, left: float = 0.0) -> None:
        super().__init__(scene, ["open", drawer], drawer)
        self._left = left
        self._freed = False

    @property
    def done(self) -> bool:
        """Whether the drawer has been open with the hand free of it; a later nudge does not matter."""
        away = bool(np.linalg.norm(self._scene.hand - self._handle()) > 0.1)
        self._freed = self._freed or (super().done and away)
        return self._freed

    def _achieved(self) -> bool:
        return self._scene.joint_left(self._held) < self._left + 0.02

    def _reach(self) -> Array:
        handle = self._handle()
        pointing = TILT * DOWN - np.sqrt(1 - TILT**2) * self._out()
        axis = np.cross(pointing, np.cross(UP, self._out()))
        off = handle - self._scene.hand
        if np.linalg.norm(off) < NEAR:
            self._grip(True)
            self._where = handle, self._scene.hand_axes
            return self._stay()
        aside = float(np.linalg.norm(off - (off @ pointing) * pointing))
        turn = float(np.arccos(np.clip(self._scene.hand_axes[:, 2] @ pointing, -1, 1)))
        back = min(0.1, SLOPE * max(0.0, aside + 0.1 * turn - 0.012))
        return self._scene.move(handle - back * pointing, axis, False, pointing)

    def _work(self) -> Array:
        scene = self._scene
        if scene.joint_left(self._held) < self._left + 0.004:
            self._grip(False)
            return self._stay()
        return scene.move(scene.hand + UNIT * self._out(), scene.hand_axes[:, 0], True, scene.hand_axes[:, 2])

    def _leave(self) -> Array:
        scene = self._scene
        return scene.move(scene.hand + UNIT * self._out(), scene.hand_axes[:, 0], False, scene.hand_axes[:, 2])

    def _out(self) -> Array:
        return -self._scene.joint_axis(self._held)  # LIBERO's drawers open towards negative positions

    def _handle(self) -> Array:
        """The middle of the bar, which stands out most."""
        drawer = self._scene.moving_boxes(self._held)
        handle: Array = drawer.centers[np.argmax(drawer.centers @ self._out())]
        return handle


class TurnKnob(Skill):
    """Takes the ridge of a knob from above and turns it; the fact is (``turnon``, fixture)."""

    def __init__(self, scene: Scene, fixture: str) -> None:
        super().__init__(scene, ["turnon", fixture], fixture)

    def _reach(self) -> Array:
        scene = self._scene
        knob = scene.moving_boxes(self._held)
        high = knob.bounds()[1][:, 2]
        ridge, nothing = knob.select(high > high.max() - 0.02), knob.select(high < 0)
        grasp = plan_grasp(ridge, nothing, scene.hand, scene.hand_axes[:, 0], np.zeros(3), scene.shoulder)
        if self._close_at(grasp.point):
            return self._stay()
        return scene.move(from_above(scene.hand, grasp.point, grasp.point[2] + 0.06, 0.006), grasp.axis, False)

    def _work(self) -> Array:
        scene = self._scene
        if scene.true(self._fact):
            self._grip(False)
            return self._stay()
        axis = scene.hand_axes[:, 0]
        turned = axis + 0.5 * np.cross(scene.joint_axis(self._held), axis)
        return scene.move(self._where[0], turned, True)


class Drag(Skill):
    """Moves a plate over the table by its rim, with closed fingers inside it: (``on``, plate, region of the table)."""

    def __init__(self, scene: Scene, fact: list[str]) -> None:
        super().__init__(scene, fact, fact[1])
        self._region = fact[2]

    def __call__(self) -> Array:
        """The action for now; the fingers are closed all the time."""
        return self._leave() if self.done else self._reach()

    @property
    def done(self) -> bool:
        """Whether the plate is where it should be."""
        return self._scene.true(self._fact)

    def _reach(self) -> Array:
        scene = self._scene
        plate, region = scene.position(self._held), scene.position(self._region)
        way = (region - plate) * (1, 1, 0)
        way /= np.linalg.norm(way)
        inside = plate + 0.015 * way + (0.0, 0.0, TIP - PRESS)
        off = scene.hand - inside
        ahead = off @ way
        if -0.03 < ahead < 0.06 and np.linalg.norm((off - ahead * way)[:2]) < 0.02 and off[2] < NEAR:
            return scene.move(inside + (ahead + SLOWLY * UNIT) * way, scene.hand_axes[:, 0], True)
        return scene.move(from_above(scene.hand, inside, inside[2] + 0.1, 0.006), scene.hand_axes[:, 0], True)

    def _work(self) -> Array:
        return self._reach()

    def _leave(self) -> Array:
        return self._scene.move(self._scene.hand + UNIT * UP, self._scene.hand_axes[:, 0], True)
