"""A dataset without depth, and the depth that a camera recorded beside it."""

from pathlib import Path

import numpy as np
import pytest

from fathom.data.features import Feature
from fathom.data.writer import DatasetWriter

LENGTHS = (6, 9, 4)
SIDE = 32


def true_depth(episode: int) -> np.ndarray:
    """Metres (T, 32, 32): a slope, with a box before it that moves; a hole in the corner."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    depth = np.stack(
        [np.where(abs(x - 4 - 2 * t) < 4, 0.5 + 0.05 * episode, 1 + 0.02 * y) for t in range(LENGTHS[episode])]
    )
    depth[:, :2, :2] = 0
    return depth.astype(np.float32)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    writer = DatasetWriter(
        tmp_path / "dataset",
        {
            "observation.images.main": Feature.rgb(SIDE, SIDE),
            "observation.state": Feature.vector(2),
            "action": Feature.vector(2),
        },
        10,
    )
    for number, length in enumerate(LENGTHS):
        random = np.random.default_rng(number)
        frames = {
            "observation.images.main": random.integers(0, 255, (length, SIDE, SIDE, 3), dtype=np.uint8),
            "observation.state": random.normal(size=(length, 2)).astype(np.float32),
            "action": random.normal(size=(length, 2)).astype(np.float32),
        }
        writer.stage_episode(number, frames, "push the box")
    return writer.finish()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """One file an episode, uint16 millimetres as a RealSense gives them."""
    folder = tmp_path / "recording"
    folder.mkdir()
    for number in range(len(LENGTHS)):
        np.save(folder / f"episode_{number:06d}.npy", np.rint(1000 * true_depth(number)).astype(np.uint16))
    return folder
