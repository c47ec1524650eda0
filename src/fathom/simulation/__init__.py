"""Simulated robots: environments, scripted experts, demonstrations and closed-loop roll-outs.

Nothing here is imported before it is needed: a worker process that runs environments never loads torch.
"""

from typing import TYPE_CHECKING, Any

from fathom.errors import UserError
from fathom.simulation.libero.suite import LIBERO_SUITES
from fathom.simulation.metaworld.suite import MetaWorld
from fathom.simulation.simpler.suite import SIMPLER_SUITES
from fathom.simulation.suite import Suite

if TYPE_CHECKING:
    from fathom.simulation.environment import Environment

SUITES: dict[str, Suite] = {suite.name: suite for suite in (MetaWorld(), *LIBERO_SUITES, *SIMPLER_SUITES)}
"""The suites by name."""

TRAINING_SEED, VALIDATION_SEED = 0, 5_000
"""Demonstrations of every task use these seeds and the following ones, for the two splits of a dataset."""

EVALUATION_SEED = 10_000
"""Closed-loop evaluation uses this seed and the following ones: layouts that no demonstration has."""


def find_suite(name: str) -> Suite:
    """The suite called ``name``; a UserError lists the others if there is none."""
    if name not in SUITES:
        raise UserError(f"no suite called {name!r}: expected one of {', '.join(SUITES)}.")
    return SUITES[name]


def make_env(suite: str, task: str | int, **options: Any) -> "Environment":
    """A gymnasium environment: ``make_env("metaworld", "faucet-open", seed=3, depth=True)``.

    Args:
        task: its name, or its number in the benchmark's own order.
        options: of every environment: ``seed``, ``cameras``, ``image_size``, ``depth``, ``segmentation``, ``quality``,
            ``perturbation``; and those of the suite's own environment, such as
            :class:`~fathom.simulation.metaworld.environment.MetaWorldEnv`.

    Raises:
        UserError: no such suite, task or camera, the simulator is not installed, or it cannot draw.
    """
    found = find_suite(suite)
    name = found.task(task)
    if missing := set(options.get("cameras", ())) - set(found.robot.cameras):
        raise UserError(f"{suite} has the cameras {', '.join(found.robot.cameras)}, and none called {min(missing)!r}.")
    found.prepare()
    return found.make(name, **options)
