"""What scripted experts know of a LIBERO scene, and how they move the hand in it."""

from typing import Any

import mujoco
import numpy as np

from fathom.simulation.environment import Array
from fathom.simulation.libero.expert_grasp import UP, WIDEST, Boxes, turn_between

DOWN = -UP
STEP = 0.05
"""Metres that an action of 1 asks for."""
TURN = 0.5
"""Radians that an action of 1 asks for."""
FLAT = 0.04
"""Metres of height below which a wide thing is not picked up but dragged."""
GAIN = 2.0
"""An arm that is asked for twice the error is quick and hardly overshoots (stiffness 150, critically damped)."""
UNIT = STEP / GAIN
"""Metres of error that already ask for the greatest speed."""


class Scene:
    """The true state of a robosuite world, by the names of the task's own definition (BDDL).

    Args:
        world: a LIBERO environment of robosuite, after its reset.
    """

    def __init__(self, world: Any) -> None:
        self.world = world
        self.model: mujoco.MjModel = world.sim.model._model
        self.data: mujoco.MjData = world.sim.data._data
        robot = world.robots[0]
        self._site = robot.eef_site_id
        self.shoulder: Array = np.array(robot.base_pos)
        self.floor = float(world.workspace_offset[2])
        fingers = (robot.gripper.important_geoms[side] for side in ("left_finger", "right_finger"))
        self._fingers = [self._geoms_named(finger) for finger in fingers]
        self._finger_positions = list(robot._ref_gripper_joint_pos_indexes)
        self._finger_velocities = list(robot._ref_gripper_joint_vel_indexes)
        solid = (self.model.geom_contype != 0) | (self.model.geom_conaffinity != 0)
        roots = self.model.body_rootid[self.model.geom_bodyid]
        things = {self._root(name) for name in (*world.objects_dict, *world.fixtures_dict)}
        self._solids = np.nonzero(solid & np.isin(roots, list(things)))[0]
        self._solid_roots = roots[self._solids]

    # Things. ---------------------------------------------------------------------------------------------------------

    def position(self, thing: str) -> Array:
        """Of an object, a fixture or a region, (3,) in metres."""
        if thing in self.world.object_sites_dict:
            return self.data.site(thing).xpos.copy()
        return self.data.xpos[self._body(thing)].copy()

    def in_drawer(self, place: str) -> bool:
        """Whether a place is a region that moves on a joint of its own."""
        return place in self.world.object_sites_dict and bool(self._joint_names(place))

    def joint_axis(self, part: str) -> Array:
        """The direction, (3,), of the joint that moves a drawer's region or a fixture's knob."""
        return self.data.xaxis[self.model.joint(self._joint_names(part)[0]).id].copy()

    def joint_left(self, part: str) -> float:
        """How much further a drawer opens, in metres."""
        joint = self.model.joint(self._joint_names(part)[0]).id
        return float(self.data.qpos[self.model.jnt_qposadr[joint]] - self.model.jnt_range[joint, 0])

    def moving_boxes(self, part: str) -> Boxes:
        """What that joint moves."""
        body = self.model.jnt_bodyid[self.model.joint(self._joint_names(part)[0]).id]
        return self._boxes(self._solids[self.model.geom_bodyid[self._solids] == body])

    def axes(self, thing: str) -> Array:
        """An object's rotation matrix, (3, 3)."""
        return self.data.xmat[self._body(thing)].reshape(3, 3).copy()

    def boxes(self, thing: str) -> Boxes:
        """What an object or fixture is made of, for collisions; of a region, what it belongs to."""
        return self._boxes(self._geoms(thing))

    def obstacles(self, *but: str) -> Boxes:
        """All objects and fixtures but these."""
        return self._boxes(self._solids[~np.isin(self._solid_roots, [self._root(name) for name in but])])

    def is_flat(self, thing: str) -> bool:
        """Whether an object is too low and wide to be taken from above."""
        low, high = self.boxes(thing).bounds()
        size = high.max(0) - low.min(0)
        return bool(size[2] < FLAT and size[:2].min() > WIDEST)

    def owner(self, thing: str) -> str | None:
        """The object or fixture that a region is part of, None for the table; the others own themselves."""
        site = self.world.object_sites_dict.get(thing)
        return thing if site is None else site.parent_name

    def true(self, fact: list[str]) -> bool:
        """Whether a predicate of the goal holds."""
        return bool(self.world._eval_predicate(fact))

    # The hand. -------------------------------------------------------------------------------------------------------

    @property
    def hand(self) -> Array:
        """The point between the fingertips, (3,) in metres."""
        return self.data.site_xpos[self._site].copy()

    @property
    def hand_axes(self) -> Array:
        """(3, 3): along columns 0 the fingers close, column 2 is where they point."""
        return self.data.site_xmat[self._site].reshape(3, 3).copy()

    @property
    def opening(self) -> float:
        """Metres between the fingers."""
        return float(np.abs(self.data.qpos[self._finger_positions]).sum())

    @property
    def finger_speed(self) -> float:
        """Metres per second at which the fingers close or open."""
        return float(np.abs(self.data.qvel[self._finger_velocities]).sum())

    def holds(self, thing: str) -> bool:
        """Whether both fingers touch an object, or something of the fixture."""
        mine = self._geoms(thing)
        pairs = self.data.contact.geom
        touching = [np.isin(pairs, finger).any(1) & np.isin(pairs, mine).any(1) for finger in self._fingers]
        return all(touch.any() for touch in touching)

    def move(self, to: Array, axis: Array, closed: bool, pointing: Array = DOWN) -> Array:
        """The action, float32 (7,) in [-1, 1], that brings the hand nearer to a pose.

        Args:
            to: where the point between the fingertips should be, (3,).
            axis: along which the fingers close, (3,); only its part across ``pointing`` counts.
            closed: close or open the fingers.
            pointing: where the fingers point, (3,) of length 1.
        """
        present = self.hand_axes
        axis = axis - (axis @ pointing) * pointing
        axis = axis / np.linalg.norm(axis)
        wanted = np.stack([axis, np.cross(pointing, axis), pointing], axis=1)
        moves = np.clip(GAIN * (to - self.hand) / STEP, -1.0, 1.0)
        turns = _within(GAIN * turn_between(present, wanted) / TURN)
        return np.concatenate([moves, turns, [1.0 if closed else -1.0]]).astype(np.float32)

    def _geoms(self, thing: str) -> Array:
        owner = self.owner(thing)
        return self._solids[:0] if owner is None else self._solids[self._solid_roots == self._root(owner)]

    def _joint_names(self, part: str) -> list[str]:
        site = self.world.object_sites_dict.get(part)
        return list((self.world.get_object(part).joints if site is None else site.joints) or ())

    def _body(self, name: str) -> int:
        return int(self.world.obj_body_id[name])

    def _root(self, name: str) -> int:
        return int(self.model.body_rootid[self._body(name)])

    def _geoms_named(self, names: list[str]) -> Array:
        return np.array([self.model.geom(name).id for name in names])

    def _boxes(self, geoms: Array) -> Boxes:
        axes = self.data.geom_xmat[geoms].reshape(-1, 3, 3)
        around = self.model.geom_aabb[geoms]  # a box is its own bounding box; of a mesh, this is close enough
        centers = self.data.geom_xpos[geoms] + np.einsum("nij,nj->ni", axes, around[:, :3])
        return Boxes(centers, axes.copy(), around[:, 3:])


def _within(vector: Array) -> Array:
    """Shortened so that no component leaves [-1, 1]: the direction stays."""
    return vector / max(1.0, float(np.abs(vector).max()))
