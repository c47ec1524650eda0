"""Scripted experts for LIBERO: they look at the simulator's true state and act towards the task's goal."""

from typing import Any

from fathom.errors import UserError
from fathom.simulation.environment import Array
from fathom.simulation.libero.expert_furniture import Drag, OpenDrawer, TurnKnob
from fathom.simulation.libero.expert_scene import Scene
from fathom.simulation.libero.expert_skills import PickAndPlace, Skill

ENOUGH = 0.04
"""Metres that a drawer may stay short of its end when something is put into it: 0.12 of 0.16 are open then."""


class LiberoExpert:
    """Makes the predicates of a task's goal true, one after the other.

    Args:
        env: has ``world``, a LIBERO environment of robosuite in which an episode has just begun.

    Raises:
        UserError: there is no skill for this goal.
    """

    def __init__(self, env: Any) -> None:
        self._scene = Scene(env.world)
        self._skills = [skill for fact in env.world.parsed_problem["goal_state"] for skill in self._plan(fact)]

    def __call__(self) -> Array:
        """The action for now, float32 (7,) in [-1, 1]."""
        return next((skill for skill in self._skills if not skill.done), self._skills[-1])()

    def _plan(self, fact: list[str]) -> list[Skill]:
        scene = self._scene
        match fact:
            case ["open", drawer]:
                return [OpenDrawer(scene, drawer)]
            case ["turnon", fixture]:
                return [TurnKnob(scene, fixture)]
            case ["on" | "in", thing, place]:
                if scene.owner(place) is None and scene.is_flat(thing):
                    return [Drag(scene, fact)]
                opened = [OpenDrawer(scene, place, left=ENOUGH)] if scene.in_drawer(place) else []
                return [*opened, PickAndPlace(scene, fact)]
        raise UserError(f"no scripted expert can make `{' '.join(fact)}` true: choose another task.")
