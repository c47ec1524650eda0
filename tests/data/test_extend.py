"""A feature added to a dataset that is already there: nothing else changes, and a killed run goes on."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from fathom.data.dataset import open_dataset
from fathom.data.extend import FeatureAdder
from fathom.data.features import Feature
from fathom.errors import UserError

from .conftest import Recorded

NAME = "observation.images.main_estimate"


def depth_of(episode: int, length: int) -> np.ndarray:
    """Metres (T, 48, 64), with a hole that moves."""
    depth = np.full((length, 48, 64), 0.5 + 0.1 * episode, np.float32)
    depth += 0.01 * np.arange(length)[:, None, None]
    for frame in range(length):
        depth[frame, frame % 48] = np.nan
    return depth


def adder(root: Path, **made_from) -> FeatureAdder:
    return FeatureAdder(root, NAME, Feature.depth(48, 64), made_from or {"estimator": "test"})


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def root(recorded: Recorded, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(recorded.root, tmp_path / "dataset"))


def fill(adding: FeatureAdder) -> None:
    for episode in adding.episodes:
        if episode.index in adding.missing:
            adding.stage(episode.index, depth_of(episode.index, episode.length), {"number": episode.index})


def test_the_depth_comes_back_and_holes_stay_holes(root: Path) -> None:
    adding = adder(root)
    fill(adding)
    assert adding.notes == {episode.index: {"number": episode.index} for episode in adding.episodes}
    adding.finish({"depth.json": {"made": "here"}})
    for episode in adding.episodes:
        dataset = open_dataset(root, cameras=[], depth=["main_estimate"], episodes=[episode.index])
        expected = depth_of(episode.index, episode.length)
        for frame in (0, episode.length - 1):
            depth = dataset.picture(NAME, frame)[0]
            assert np.array_equal(depth == 0, np.isnan(expected[frame]))
            assert np.abs(depth - np.nan_to_num(expected[frame])).max() < 0.0015  # half a code
    assert json.loads((root / "meta" / "depth.json").read_text()) == {"made": "here"}
    assert not list(root.parent.glob("*adding*"))


def test_everything_else_stays_bit_for_bit(root: Path) -> None:
    before, rows = digests(root), open_dataset(root)[3]
    adding = adder(root)
    fill(adding)
    adding.finish({})
    after = digests(root)
    changed = {name for name, digest in before.items() if after[name] != digest}
    assert changed == {"meta/info.json", "meta/stats.json", "meta/episodes/chunk-000/file-000.parquet"}
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"videos"}
    again = open_dataset(root)[3]
    assert rows.keys() == again.keys()  # depth is read on request
    assert all(np.array_equal(rows[name], again[name]) for name in rows if name != "task")
    stats = json.loads((root / "meta/stats.json").read_text())[NAME]
    assert stats["min"] == [[[0.0]]]  # millimetres: the holes
    assert 500 < stats["mean"][0][0][0] < 1000


def test_until_the_end_nothing_is_visible_and_a_killed_run_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digests(root)
    adding = adder(root)
    adding.stage(0, depth_of(0, adding.episodes[0].length), {})
    assert digests(root) == before
    with pytest.raises(UserError, match=r"episodes \[1, "):
        adding.finish({})
    again = adder(root)
    assert 0 not in again.missing
    fill(again)
    # killed after the episode table, before the feature is named
    original = FeatureAdder._extend_episode_table
    with monkeypatch.context() as patch:

        def die(self, rows):
            original(self, rows)
            raise KeyboardInterrupt

        patch.setattr(FeatureAdder, "_extend_episode_table", die)
        with pytest.raises(KeyboardInterrupt):
            again.finish({})
    assert NAME not in json.loads((root / "meta/info.json").read_text())["features"]
    assert len(open_dataset(root)) == sum(episode.length for episode in adding.episodes)
    last = adder(root)
    assert last.missing == []
    last.finish({})
    assert len(open_dataset(root, depth=["main_estimate"])[0][NAME].shape) == 3


def test_what_does_not_fit_is_refused(root: Path) -> None:
    adding = adder(root)
    with pytest.raises(UserError, match=r"episode 0: 1 frames of .*, but it has"):
        adding.stage(0, depth_of(0, 1), {})
    with pytest.raises(UserError, match="made from something else"):
        adder(root, estimator="other")
    with pytest.raises(UserError, match="has a feature 'action' already"):
        FeatureAdder(root, "action", Feature.depth(48, 64), {})


def test_relative_depth_says_so(root: Path) -> None:
    adding = FeatureAdder(root, NAME, Feature.depth(48, 64, "relative_inverse"), {})
    for episode in adding.episodes:
        values = np.linspace(1 / 4095, 1, 48 * 64, dtype=np.float32).reshape(48, 64)
        adding.stage(episode.index, np.broadcast_to(values, (episode.length, 48, 64)), {})
    adding.finish({})
    dataset = open_dataset(root, cameras=[], depth=["main_estimate"])
    assert dataset.info.features[NAME].depth_kind == "relative_inverse"
    assert np.abs(dataset.picture(NAME, 0)[0] - values).max() < 0.6 / 4095
