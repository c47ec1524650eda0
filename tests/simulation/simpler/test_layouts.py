"""SIMPLER's grid of episodes, and layouts between its points."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fathom.errors import UserError
from fathom.simulation.simpler.layouts import Layout, official_layout, varied_layout

CORNERS = np.array([[-0.235, -0.075], [-0.235, 0.075], [-0.085, -0.075], [-0.085, 0.075]])
PAIRS = [(i, j) for i in range(4) for j in range(4) if i != j]
GRID = Layout(
    np.array([[[*CORNERS[i], 0.88], [*CORNERS[j], 0.87]] for i, j in PAIRS]),
    np.array([[[0, 0, 0, 1.0], [1.0, 0, 0, 0]], [[0.5**0.5, 0, 0, -(0.5**0.5)], [1.0, 0, 0, 0]]]),
)
"""The carrot's: 12 pairs of corners of a square by 2 turns."""


def test_the_episodes_are_each_place_with_each_turn() -> None:
    layouts = [official_layout(GRID, number) for number in range(24)]
    assert [layout.positions.shape for layout in layouts] == [(1, 2, 3)] * 24
    # episode 3, as recorded from SIMPLER: the carrot in the first corner, the plate in the third, the second turn
    np.testing.assert_array_equal(layouts[3].positions[0, :, :2], CORNERS[[0, 2]])
    np.testing.assert_array_equal(layouts[3].turns[0], GRID.turns[1])
    assert len({(layout.positions.tobytes(), layout.turns.tobytes()) for layout in layouts}) == 24


@pytest.mark.parametrize("number", [-1, 24])
def test_there_are_no_others(number: int) -> None:
    with pytest.raises(UserError, match="0 to 23"):
        official_layout(GRID, number)


def test_varied_layouts_lie_between() -> None:
    layouts = [varied_layout("widowx_carrot_on_plate", GRID, np.random.default_rng(seed)) for seed in range(200)]
    places = np.stack([layout.positions[0] for layout in layouts])
    assert (places >= GRID.positions.min(axis=0)).all() and (places <= GRID.positions.max(axis=0)).all()
    assert places[:, 0, :2].std(axis=0).min() > 0.03  # over the whole square, of half a side of 0.075
    assert np.linalg.norm(places[:, 0, :2] - places[:, 1, :2], axis=1).min() >= 0.1
    # the carrot is turned about the vertical alone, over the range around the grid's turns of 180 and 270 degrees
    turns = Rotation.from_quat([np.roll(layout.turns[0, 0], -1) for layout in layouts]).as_euler("zyx", degrees=True)
    np.testing.assert_allclose(turns[:, 1:], 0, atol=1e-6)
    yaw = turns[:, 0] % 360
    assert 135 <= yaw.min() < 150 and 300 < yaw.max() <= 315
    assert all((layout.turns[0, 1] == GRID.turns[0, 1]).all() for layout in layouts)


def test_a_seed_fixes_the_layout() -> None:
    one, same, other = (varied_layout("widowx_carrot_on_plate", GRID, np.random.default_rng(s)) for s in (1, 1, 2))
    assert one.positions.tobytes() == same.positions.tobytes() != other.positions.tobytes()
