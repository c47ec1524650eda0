"""LIBERO's five suites."""

import importlib.util
from typing import TYPE_CHECKING, Any

from fathom.errors import UserError
from fathom.simulation.display import opengl_backend
from fathom.simulation.libero.assets import INSTALL, are_stand_ins, assets, config_folder, package
from fathom.simulation.libero.tasks import (
    ACTION_NAMES,
    CAMERAS,
    FPS,
    INITIAL_STATES,
    STATE_NAMES,
    TASKS,
    instruction,
)
from fathom.simulation.suite import Expert, Robot, Suite

if TYPE_CHECKING:
    from fathom.simulation.environment import Environment
    from fathom.simulation.libero.environment import LiberoEnv


class Libero(Suite):
    """One of LIBERO's suites: ``libero_spatial``, ``libero_object``, ``libero_goal``, ``libero_10``, ``libero_90``."""

    robot = Robot("panda", FPS, STATE_NAMES, ACTION_NAMES, CAMERAS)
    initial_states = INITIAL_STATES
    official = {"episodes": 50, "image_size": 256, "quality": "official"}  # noqa: RUF012
    packages = ("hf-libero", "robosuite", "bddl", "mujoco", "gymnasium")

    def __init__(self, name: str) -> None:
        self.name = name
        self.instructions = {task: instruction(task) for task in TASKS[name]}

    def prepare(self) -> None:
        """Worker processes inherit the OpenGL and the assets that are found."""
        missing = [name for name in ("robosuite", "bddl", "mujoco", "cv2") if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"LIBERO needs {', '.join(missing)}: `{INSTALL}`.")
        package()
        config_folder()
        assets()
        opengl_backend()

    def make(self, task: str, **options: Any) -> "LiberoEnv":
        from fathom.simulation.libero.environment import LiberoEnv

        return LiberoEnv(task, suite=self.name, **options)

    def expert(self, env: "Environment") -> Expert:
        from fathom.simulation.libero.environment import LiberoEnv
        from fathom.simulation.libero.expert import LiberoExpert

        assert isinstance(env, LiberoEnv)
        return LiberoExpert(env)

    def versions(self) -> dict[str, str]:
        """Of this Python and of what decides an outcome here: of the assets, whether some are stand-ins."""
        stand_ins = are_stand_ins(assets())
        return super().versions() | {"libero-assets": "stand-ins for some visuals" if stand_ins else "official"}


LIBERO_SUITES = tuple(Libero(name) for name in TASKS)
