"""Tests marked ``simpler`` need ManiSkill, its assets (FATHOM_MANISKILL_ASSETS) and a Vulkan driver."""

import pytest

from fathom.errors import UserError
from fathom.simulation.simpler.suite import SimplerWidowX


@pytest.fixture(scope="session")
def simpler() -> None:
    """Skips where ManiSkill cannot run."""
    try:
        SimplerWidowX().prepare()
    except UserError as error:
        pytest.skip(str(error))
