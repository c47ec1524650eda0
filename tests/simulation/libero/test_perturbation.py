"""Perturbations of LIBERO change what is seen, and nothing else."""

import numpy as np
import pytest

from fathom.simulation.libero.environment import LiberoEnv
from fathom.simulation.libero.tasks import TASKS
from fathom.simulation.perturbation import KINDS, Perturbation

pytestmark = [pytest.mark.libero, pytest.mark.slow, pytest.mark.usefixtures("libero")]


def first_look(perturbation: Perturbation | None) -> tuple[np.ndarray, np.ndarray]:
    """The first picture of an episode, and the positions of everything after some actions."""
    env = LiberoEnv(TASKS["libero_object"][3], suite="libero_object", image_size=64, perturbation=perturbation)
    env.restart(5, init_state=2)
    picture = env.observe()["images"]["main"]
    for action in np.random.default_rng(0).uniform(-1, 1, (5, 7)):
        env.advance(action)
    positions = env.world.sim.data.qpos.copy()
    env.close()
    return picture, positions


@pytest.mark.parametrize("kind", KINDS)
def test_a_perturbation_changes_the_picture_and_not_the_physics(kind: str) -> None:
    plain, positions = first_look(None)
    unchanged, _ = first_look(Perturbation(kind, 0.0))  # type: ignore[arg-type]
    changed, same_positions = first_look(Perturbation(kind, 1.0))  # type: ignore[arg-type]
    np.testing.assert_array_equal(unchanged, plain)
    np.testing.assert_array_equal(same_positions, positions)
    share = (np.abs(changed.astype(int) - plain) > 20).any(axis=2).mean()
    assert share > 0.02, f"{share:.1%} of the pixels differ"
