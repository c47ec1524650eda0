"""Simulated robots: environments, scripted experts, demonstrations and closed-loop roll-outs.

Nothing here is imported before it is needed: a worker process that runs environments never loads torch.
"""

import difflib
import importlib.util
from typing import TYPE_CHECKING, Any

from fathom.errors import UserError
from fathom.simulation.display import opengl_backend
from fathom.simulation.metaworld_tasks import INSTRUCTIONS

if TYPE_CHECKING:
    from fathom.simulation.metaworld import MetaWorldEnv

SUITES: dict[str, dict[str, str]] = {"metaworld": INSTRUCTIONS}
"""The instruction of each task of each suite."""

TRAINING_SEED, VALIDATION_SEED = 0, 5_000
"""Demonstrations of every task use these seeds and the following ones, for the two splits of a dataset."""

EVALUATION_SEED = 10_000
"""Closed-loop evaluation uses this seed and the following ones: layouts that no demonstration has."""


def make_env(suite: str, task: str, **options: Any) -> "MetaWorldEnv":
    """A gymnasium environment: ``make_env("metaworld", "faucet-open", seed=3, depth=True)``.

    Args:
        options: keyword arguments of :class:`~fathom.simulation.metaworld.MetaWorldEnv`.

    Raises:
        UserError: no such suite or task, the simulator is not installed, or there is no OpenGL to render with.
    """
    check_task(suite, task)
    prepare_simulator()
    from fathom.simulation.metaworld import MetaWorldEnv

    return MetaWorldEnv(task, **options)


def prepare_simulator() -> None:
    """Raise a UserError if the simulator is not installed or cannot draw; worker processes inherit what is found."""
    if importlib.util.find_spec("metaworld") is None:
        raise UserError("Meta-World is not installed: `pip install 'fathom-vla[sim]'`.")
    opengl_backend()


def check_task(suite: str, task: str) -> None:
    """Raise a UserError that lists near names if there is no such suite or task."""
    if suite not in SUITES:
        raise UserError(f"no suite called {suite!r}: expected one of {', '.join(SUITES)}.")
    if task not in SUITES[suite]:
        near = difflib.get_close_matches(task, SUITES[suite], n=4, cutoff=0.4) or sorted(SUITES[suite])
        raise UserError(f"no task called {task!r} in {suite}: did you mean {', '.join(near)}?")
