"""Where the objects of a Bridge twin start: on SIMPLER's grid, or anywhere between its points."""

from typing import Any, NamedTuple

import numpy as np

from fathom.errors import UserError
from fathom.simulation.environment import Array

_APART = 0.1
"""Metres between the centres of source and target, at least: the closest that the grids have, and no overlap."""


class Layout(NamedTuple):
    """Positions (P, 2, 3) in metres and quaternions (Q, 2, 4) of source and target in the world."""

    positions: Array
    turns: Array

    def tensors(self) -> tuple[Any, Any]:
        """As ManiSkill holds them."""
        import torch

        return torch.as_tensor(self.positions).float(), torch.as_tensor(self.turns).float()


def official_layout(grid: Layout, episode: int) -> Layout:
    """SIMPLER's episode of this number: each position with all turns, then the next position.

    Raises:
        UserError: the task has no such episode.
    """
    count = len(grid.positions) * len(grid.turns)
    if not 0 <= episode < count:
        raise UserError(f"this task has the initial states 0 to {count - 1}, and no {episode}.")
    place, turn = divmod(episode, len(grid.turns))
    return Layout(grid.positions[place : place + 1], grid.turns[turn : turn + 1])


def varied_layout(task: str, grid: Layout, rng: np.random.Generator) -> Layout:
    """A layout between the grid's points and turns."""
    low, high = grid.positions.min(axis=0), grid.positions.max(axis=0)
    while True:
        positions = rng.uniform(low, high)
        if np.linalg.norm(positions[0, :2] - positions[1, :2]) >= _APART:
            break
    turns = grid.turns[rng.integers(len(grid.turns))].copy()
    turns[0] = _turned(turns[0], rng.uniform(*_FURTHER[task]))
    return Layout(positions[None], turns[None])


_FURTHER = {
    "widowx_carrot_on_plate": (-np.pi / 4, np.pi / 4),
    "widowx_spoon_on_towel": (-np.pi / 4, np.pi / 4),
    "widowx_stack_cube": (-np.pi / 12, np.pi / 12),
    "widowx_put_eggplant_in_basket": (-np.pi / 8, np.pi / 8),
}
"""How far a thing is turned about the vertical from a turn of the grid, in radians: about half of the grid's step."""


def _turned(quaternion: Array, angle: float) -> Array:
    """A quaternion (w, x, y, z), turned about the world's vertical."""
    c, s = np.cos(angle / 2), np.sin(angle / 2)
    w, x, y, z = quaternion
    return np.array([c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w])
