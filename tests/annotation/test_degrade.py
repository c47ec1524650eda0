"""A noisy copy of a dataset's true depth."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from fathom.annotation.degrade import degrade
from fathom.cli.degrade import Degrade
from fathom.data.dataset import open_dataset
from fathom.data.extend import FeatureAdder
from fathom.data.features import Feature
from fathom.depth.degradation import DepthNoise
from fathom.errors import UserError

from .conftest import LENGTHS, SIDE, true_depth

NOISE = DepthNoise(0.02, 0.01, 0.1)


@pytest.fixture
def with_depth(dataset: Path) -> Path:
    adder = FeatureAdder(dataset, "observation.images.main_depth", Feature.depth(SIDE, SIDE), {})
    for episode in range(len(LENGTHS)):
        adder.stage(episode, true_depth(episode), {})
    adder.finish({})
    return dataset


def noisy(root: Path, episode: int) -> np.ndarray:
    data = open_dataset(root, cameras=(), depth=["noisy_depth"], episodes=[episode])
    return np.stack([data.picture("observation.images.noisy_depth", i)[0] for i in range(len(data))])


def untouched(root: Path) -> dict[str, str]:
    files = [*root.glob("data/**/*.parquet"), *root.glob("videos/*main*/**/*.mp4")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_copy_is_the_true_depth_made_worse_and_the_rest_stays(with_depth: Path) -> None:
    before = untouched(with_depth)
    assert degrade(with_depth, NOISE) == len(LENGTHS)
    assert untouched(with_depth) == before and len(before) >= 3
    seen = [noisy(with_depth, episode) for episode in range(len(LENGTHS))]
    for episode, depth in enumerate(seen):
        true = true_depth(episode)
        both = (depth > 0) & (true > 0)
        assert both.mean() < 0.92 and (depth[:, :2, :2] == 0).all(), "holes, and those that were there"
        assert 0.01 < (np.abs(depth - true) / true.clip(min=1e-6))[both].mean() < 0.06
    assert not np.array_equal(seen[0][:4] > 0, seen[2][:4] > 0), "episodes have noise of their own"
    assert json.loads((with_depth / "meta" / "noisy_depth.json").read_text())["noise"]["holes"] == 0.1


def test_a_killed_run_goes_on_to_the_same(with_depth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, done = FeatureAdder.stage, []

    def killed(self: FeatureAdder, episode: int, *rest: object) -> None:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(episode)
        stage(self, episode, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(FeatureAdder, "stage", killed)
        with pytest.raises(KeyboardInterrupt):
            degrade(with_depth, NOISE)
    with pytest.raises(UserError, match="made from something else"):
        degrade(with_depth, NOISE, seed=1)
    degrade(with_depth, NOISE)
    resumed = [noisy(with_depth, episode) for episode in range(len(LENGTHS))]
    degrade(with_depth, NOISE, name="again")
    other = open_dataset(with_depth, cameras=(), depth=["again"], episodes=[2])
    again = np.stack([other.picture("observation.images.again", i)[0] for i in range(len(other))])
    assert np.array_equal(again, resumed[2])


def test_what_cannot_be_degraded_is_told(with_depth: Path) -> None:
    with pytest.raises(UserError, match="no depth feature 'wrist_depth'; there is: main_depth"):
        degrade(with_depth, NOISE, source="wrist_depth")
    with pytest.raises(UserError, match=r"has a feature 'observation\.images\.main_depth' already"):
        degrade(with_depth, NOISE, name="main_depth")
    with pytest.raises(UserError, match="no depth feature 'main'"):
        degrade(with_depth, NOISE, source="main")
    with pytest.raises(UserError, match=r"holes is 1\.5"):
        Degrade(with_depth, holes=1.5).run()
