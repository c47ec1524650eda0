"""Meta-World as a suite."""

import importlib.util
from typing import TYPE_CHECKING, Any

from fathom.errors import UserError
from fathom.simulation.display import opengl_backend
from fathom.simulation.metaworld.tasks import ACTION_NAMES, ACTION_REPEAT, INSTRUCTIONS, SIMULATOR_HZ, STATE_NAMES
from fathom.simulation.suite import Expert, Robot, Suite

if TYPE_CHECKING:
    from fathom.simulation.environment import Environment
    from fathom.simulation.metaworld.environment import MetaWorldEnv


class MetaWorld(Suite):
    """Meta-World v3's 50 tasks; layouts come from seeds."""

    name = "metaworld"
    instructions = INSTRUCTIONS
    robot = Robot("sawyer", SIMULATOR_HZ // ACTION_REPEAT, STATE_NAMES, ACTION_NAMES)
    official = {"episodes": 50, "quality": "official", "image_size": 480}  # noqa: RUF012
    options = ("action_repeat", "spread")
    packages = ("metaworld", "mujoco", "gymnasium")

    def prepare(self) -> None:
        """Worker processes inherit the OpenGL that is found."""
        if importlib.util.find_spec("metaworld") is None:
            raise UserError("Meta-World is not installed: `pip install 'fathom-vla[sim]'`.")
        opengl_backend()

    def make(self, task: str, **options: Any) -> "MetaWorldEnv":
        from fathom.simulation.metaworld.environment import MetaWorldEnv

        spread = options.get("spread")
        if spread is not None and not 0 < spread <= 0.3:
            raise UserError(f"objects are scattered by more than 0 and up to 0.3 m, not by {spread}.")
        return MetaWorldEnv(task, **options)

    def expert(self, env: "Environment") -> Expert:
        from fathom.simulation.metaworld.environment import MetaWorldEnv
        from fathom.simulation.metaworld.expert import ScriptedExpert

        assert isinstance(env, MetaWorldEnv)
        return ScriptedExpert(env)
