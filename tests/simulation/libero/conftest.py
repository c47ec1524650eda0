"""Tests marked ``libero`` need the simulator's packages, and FATHOM_LIBERO_ASSETS set to its assets."""

import os

import pytest

from fathom.errors import UserError
from fathom.simulation.libero.assets import SETTING, package


@pytest.fixture(scope="session")
def libero() -> None:
    """Skips where LIBERO cannot run."""
    try:
        package()
    except UserError as error:
        pytest.skip(str(error))
    if not os.environ.get(SETTING):
        pytest.skip(f"{SETTING} is not set")
