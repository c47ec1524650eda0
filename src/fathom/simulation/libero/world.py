"""LIBERO's own simulation of a task, handled so that an episode depends on nothing but its seed.

LIBERO and robosuite draw from NumPy's global generator, ask questions and write logs when they are imported, and build
their model anew for every episode (seconds). Here they do none of that: a model is built once, and what it keeps of an
episode is put back before the next.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fathom.simulation.display import opengl_backend
from fathom.simulation.libero.assets import assets, bddl_file, config_folder
from fathom.simulation.libero.tasks import FPS


def build(suite: str, task: str) -> Any:
    """The robosuite environment of a task: a Panda under operational-space control, no pictures, no time limit.

    Raises:
        UserError: LIBERO, its assets or OpenGL are missing.
    """
    problems, robosuite, errors = _modules()
    definition = str(bddl_file(suite, task))
    problem = problems.BDDLUtils.get_problem_info(definition)["problem_name"]
    kind = _reusable(problems.TASK_MAPPING[problem])
    with _seeded(0):
        world = _until_it_fits(
            lambda: kind(
                definition,
                robots=["Panda"],
                controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
                initialization_noise=None,
                use_camera_obs=False,
                has_renderer=False,
                has_offscreen_renderer=False,
                control_freq=FPS,
                ignore_done=True,
                hard_reset=False,
            ),
            errors.RandomizationError,
        )
    for observable in world._observables.values():
        observable.set_enabled(False)  # nobody reads them, and they cost as much as a third of the physics
    return world


def reset(world: Any, seed: int, state: NDArray[np.float64] | None = None) -> None:
    """Start an episode.

    Args:
        world: from :func:`build`.
        seed: fixes the layout.
        state: recorded positions and velocities for what moves; what does not move (cabinets, stoves) has no recorded
            place, and stands where the seed puts it.
    """
    _, _, errors = _modules()
    with _seeded(seed):
        _until_it_fits(world.reset, errors.RandomizationError)
    if state is not None:
        world.sim.set_state_from_flattened(state)
    world.sim.forward()
    world._post_process()  # what shows a state, such as a hot stove


def _until_it_fits(start: Callable[[], Any], does_not_fit: type[Exception]) -> Any:
    """What ``start`` returns. It draws a layout; where things do not fit in, LIBERO, too, draws another."""
    while True:
        with contextlib.suppress(does_not_fit):
            return start()


def _reusable(problem: Any) -> Any:
    """The class of LIBERO's environments whose resets do all that building the model anew would do."""

    class Reusable(problem):  # type: ignore[misc]
        def _initialize_sim(self, xml_string: str | None = None) -> None:
            super()._initialize_sim(xml_string)
            model = self.sim.model._model
            self._as_built = [(array, array.copy()) for array in (model.body_pos, model.body_quat, model.site_rgba)]

        def _reset_internal(self) -> None:
            # LIBERO moves furniture in the model, and places what lies on it as if it still stood where it was built.
            for array, value in self._as_built:
                array[:] = value
            for robot in self.robots:
                robot.gripper.current_action = np.zeros(robot.gripper.dof)
            self.sim.forward()
            super()._reset_internal()

    Reusable.__name__ = problem.__name__  # LIBERO compares it with the task's definition
    return Reusable


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """NumPy's global generator, which LIBERO uses, starts from ``seed`` inside and is as it was afterwards."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)


def _modules() -> tuple[Any, Any, Any]:
    """LIBERO's problems, robosuite, and robosuite's errors."""
    if "libero.libero.envs.problems" not in sys.modules:
        _before_import()
    import libero.libero.envs.bddl_base_domain as problems
    import libero.libero.envs.problems  # noqa: F401
    import robosuite
    import robosuite.utils.errors as errors

    return problems, robosuite, errors


def _before_import() -> None:
    folder = assets()
    opengl_backend()
    os.environ["LIBERO_CONFIG_PATH"] = str(config_folder())
    if not Path("~/.config/matplotlib").expanduser().exists():
        os.environ.setdefault("MPLCONFIGDIR", str(config_folder()))  # LIBERO loads matplotlib, which would make that
    settings: Any = ModuleType("robosuite.macros_private")  # where robosuite looks for a user's own settings
    settings.FILE_LOGGING_LEVEL = None  # else it logs to a file in /tmp that only one user of a machine can write to
    settings.MUJOCO_GPU_RENDERING = False  # else it overrules the OpenGL that was found to work
    sys.modules[settings.__name__] = settings
    import libero.libero

    libero.libero._assets_path_cache = str(folder)
