"""Two datasets that lerobot wrote (``golden``), and one of our own with all kinds of features (``recorded``)."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fathom.data.features import Feature
from fathom.data.writer import DatasetWriter

GOLDEN = Path(__file__).parents[1] / "golden"
FEATURES = {
    "observation.images.main": Feature.rgb(48, 64),
    "observation.images.wrist": Feature.rgb(32, 32),
    "observation.images.main_depth": Feature.depth(48, 64),
    "observation.images.main_segmentation": Feature.segmentation(48, 64, {0: "table", 300: "arm"}),
    "observation.state": Feature.vector(["x", "y", "z"]),
    "observation.gripper": Feature.vector(1),
    "action": Feature.vector(2),
}
LENGTHS = [9, 4, 1, 12, 6]
TASKS = ["open the door", "push the puck"]

Frames = dict[str, NDArray[Any]]


def make_frames(length: int, seed: int) -> Frames:
    """One episode: a lit wall and a box that moves before it; every frame differs from its neighbours."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:48, 0:64].astype(np.float32)
    main, depth, labels = [], [], []
    for t in range(length):
        box = (abs(x - 8 - 4 * t) < 6) & (abs(y - 24) < 10)
        shade = 120 + 60 * np.sin((x + 3 * t) / 11 + seed) + y
        main.append(np.where(box[..., None], [200, 60, 40], shade[..., None] * [1.0, 0.9, 0.7]))
        depth.append(np.where(box, 0.6 + 0.01 * t, 1.5 + 0.01 * y + 0.1 * seed))
        labels.append(np.where(box, 300, 0))
    colour = np.array(main).clip(0, 255).astype(np.uint8)
    return {
        "observation.images.main": colour,
        "observation.images.wrist": np.ascontiguousarray(colour[:, 8:40, 16:48]),
        "observation.images.main_depth": np.array(depth, dtype=np.float32),
        "observation.images.main_segmentation": np.array(labels),
        "observation.state": random.normal(size=(length, 3)).astype(np.float32),
        "observation.gripper": random.uniform(size=(length, 1)).astype(np.float32),
        "action": random.normal(size=(length, 2)).astype(np.float32),
    }


@dataclass(frozen=True)
class Recorded:
    root: Path
    episodes: list[Frames]

    def all(self, name: str) -> NDArray[Any]:
        return np.concatenate([episode[name] for episode in self.episodes])


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Five episodes over several files and chunks, in two splits; do not change it: use ``copy_of``."""
    root = tmp_path_factory.mktemp("recorded") / "dataset"
    episodes = [make_frames(length, seed) for seed, length in enumerate(LENGTHS)]
    writer = DatasetWriter(
        root, FEATURES, fps=20, robot_type="sawyer", data_file_mb=0.01, video_file_mb=0.008, files_per_chunk=2
    )
    for number, frames in enumerate(episodes):
        writer.stage_episode(number, frames, TASKS[number % 2])
    writer.finish({"train": range(4), "validation": range(4, 5)})
    return Recorded(root, episodes)


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    def copy(root: Path) -> Path:
        return Path(shutil.copytree(root, tmp_path / root.name))

    return copy
