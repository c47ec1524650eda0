"""Scripted experts for LIBERO: they look at the simulator's true state and act towards the task's goal."""

from typing import Any

import numpy as np

from fathom.errors import UserError
from fathom.simulation.environment import Array
from fathom.simulation.libero.expert_scene import Scene
from fathom.simulation.libero.expert_skills import PickAndPlace


class LiberoExpert:
    """Solves a LIBERO task whose goal is to put things somewhere.

    Args:
        env: has ``world``, a LIBERO environment of robosuite in which an episode has just begun.

    Raises:
        UserError: there is no expert for this goal.
    """

    def __init__(self, env: Any) -> None:
        self._scene = Scene(env.world)
        goal = env.world.parsed_problem["goal_state"]
        self._skills = [(fact, self._skill(fact)) for fact in goal]

    def __call__(self) -> Array:
        """The action for now, float32 (7,) in [-1, 1]."""
        for fact, skill in self._skills:
            if not self._scene.true(fact):
                return skill()
        return self._skills[-1][1]()

    def _skill(self, fact: list[str]) -> Any:
        return PickAndPlace(self._scene, fact)
