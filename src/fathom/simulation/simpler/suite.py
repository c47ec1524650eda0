"""SIMPLER's suites: ``simpler_widowx`` through ManiSkill 3, ``simpler_google`` through an installed SIMPLER."""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom.errors import UserError
from fathom.simulation.archives import cache
from fathom.simulation.noise import ExpertNoise
from fathom.simulation.simpler.assets import are_stand_ins, assets
from fathom.simulation.simpler.conventions import ACTION_NAMES, GOOGLE_STATE_NAMES, WIDOWX_STATE_NAMES
from fathom.simulation.simpler.tasks import (
    GOOGLE_FPS,
    GOOGLE_TASKS,
    WIDOWX_FPS,
    WIDOWX_INITIAL_STATES,
    WIDOWX_TASKS,
)
from fathom.simulation.suite import Expert, Robot, Suite

if TYPE_CHECKING:
    from fathom.simulation.environment import Environment
    from fathom.simulation.simpler.google_robot import GoogleRobotEnv
    from fathom.simulation.simpler.widowx import WidowXEnv

INSTALL = "pip install 'fathom-vla[simpler]'"
VULKAN = (
    "install Mesa 25 or later with its Vulkan drivers: on Debian 12 `apt install -t bookworm-backports "
    "mesa-vulkan-drivers libvulkan1`, elsewhere `apt install mesa-vulkan-drivers libvulkan1`"
)
_DRIVERS = (Path("/usr/share/vulkan/icd.d"), Path("/etc/vulkan/icd.d"), Path("/usr/local/share/vulkan/icd.d"))


class SimplerWidowX(Suite):
    """SIMPLER's four tasks of the WidowX."""

    name = "simpler_widowx"
    instructions = {name: task.instruction for name, task in WIDOWX_TASKS.items()}  # noqa: RUF012
    robot = Robot("widowx", WIDOWX_FPS, WIDOWX_STATE_NAMES, ACTION_NAMES)
    initial_states = WIDOWX_INITIAL_STATES
    official = {  # noqa: RUF012
        "episodes": WIDOWX_INITIAL_STATES,
        "image_size": 224,
        "quality": "official",
        "options": {"judged": "at_the_end"},
    }
    noise = ExpertNoise(std=0.008)
    options = ("judged",)
    packages = ("mani-skill", "sapien", "torch", "gymnasium")

    def prepare(self) -> None:
        """Worker processes inherit the assets that are found."""
        if importlib.util.find_spec("mani_skill") is None or importlib.util.find_spec("sapien") is None:
            raise UserError(
                f"ManiSkill is not installed: `{INSTALL}`, here or in an environment of its own named by --sim-python."
            )
        assets()
        if not _has_vulkan():
            raise UserError(f"ManiSkill finds no Vulkan driver to draw with: {VULKAN}.")
        for habit in ("MPLCONFIGDIR", "MESA_SHADER_CACHE_DIR"):  # of what it imports: to write into the user's home
            os.environ.setdefault(habit, str(cache() / "maniskill"))

    def make(self, task: str, **options: Any) -> "WidowXEnv":
        from fathom.simulation.simpler.widowx import WidowXEnv

        return WidowXEnv(task, **options)

    def expert(self, env: "Environment") -> Expert:
        from fathom.simulation.simpler.expert import ScriptedExpert
        from fathom.simulation.simpler.widowx import WidowXEnv

        assert isinstance(env, WidowXEnv)
        return ScriptedExpert(env)

    def versions(self) -> dict[str, str]:
        """Of this Python and of what decides an outcome here: of the assets, whether some are stand-ins."""
        stand_ins = are_stand_ins(assets())
        return super().versions() | {"maniskill-assets": "stand-ins for some visuals" if stand_ins else "official"}


class SimplerGoogle(Suite):
    """The Google Robot's tasks of SIMPLER's visual matching, through an installed SIMPLER; layouts come from seeds."""

    name = "simpler_google"
    instructions = {name: task.instruction for name, task in GOOGLE_TASKS.items()}  # noqa: RUF012
    robot = Robot("google_robot", GOOGLE_FPS, GOOGLE_STATE_NAMES, ACTION_NAMES)
    official = {  # noqa: RUF012
        "episodes": 240,
        "image_size": 224,
        "quality": "official",
        "options": {"judged": "at_the_end"},
    }
    options = ("judged",)
    packages = ("simpler-env", "mani-skill2-real2sim", "sapien", "gymnasium")

    def prepare(self) -> None:
        if importlib.util.find_spec("simpler_env") is None:
            raise UserError(
                "SIMPLER is not installed: follow https://github.com/simpler-env/SimplerEnv and name its "
                "interpreter by --sim-python."
            )

    def make(self, task: str, **options: Any) -> "GoogleRobotEnv":
        from fathom.simulation.simpler.google_robot import GoogleRobotEnv

        return GoogleRobotEnv(task, **options)

    def expert(self, env: "Environment") -> Expert:
        raise UserError(f"there is no scripted expert for {env.task}: simpler_google is for evaluation alone.")


SIMPLER_SUITES = (SimplerWidowX(), SimplerGoogle())


def _has_vulkan() -> bool:
    """Whether any Vulkan driver is described where the loader looks; only drawing tells whether it is recent enough."""
    if os.environ.get("VK_ICD_FILENAMES") or os.environ.get("VK_DRIVER_FILES"):
        return True
    return any(folder.is_dir() and any(folder.glob("*.json")) for folder in _DRIVERS)
