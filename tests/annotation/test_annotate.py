"""Depth added to a dataset: by any number of workers the same, taken up after a kill, and with what failed listed."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from fathom.annotation import Annotation, annotate
from fathom.cli.main import main
from fathom.data.dataset import open_dataset
from fathom.data.extend import FeatureAdder
from fathom.errors import UserError

from .conftest import LENGTHS, true_depth

DEPTH = "observation.images.main_depth"


def stored(root: Path, episode: int) -> np.ndarray:
    dataset = open_dataset(root, cameras=[], depth=["main_depth"], episodes=[episode])
    return np.stack([dataset.picture(DEPTH, i)[0] for i in range(len(dataset))])


def videos(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in (root / "videos" / DEPTH).rglob("*.mp4")}


def recorded(recording: Path, **changes) -> Annotation:
    return Annotation("recorded", str(recording), **changes)


def test_what_was_recorded_is_what_the_dataset_has(dataset, recording):
    pictures = open_dataset(dataset)[0]["observation.images.main"].clone()
    done = annotate(dataset, recorded(recording))
    assert (done.episodes, done.skipped) == (3, {})
    for episode in range(3):
        truth = true_depth(episode)
        assert np.array_equal(stored(dataset, episode) == 0, truth == 0)
        assert np.abs(stored(dataset, episode) - truth).max() < 0.0016  # half a millimetre, and half a code
    assert (open_dataset(dataset)[0]["observation.images.main"] == pictures).all()
    record = json.loads((dataset / "meta" / "depth.json").read_text())[DEPTH]
    assert record["kind"] == "metric" and set(record["episodes"]) == {"0", "1", "2"}


@pytest.mark.slow
def test_it_does_not_depend_on_the_number_of_workers(dataset, recording, tmp_path):
    other = Path(shutil.copytree(dataset, tmp_path / "other"))
    annotate(dataset, recorded(recording), processes=1)
    annotate(other, recorded(recording), processes=3)
    assert videos(dataset) == videos(other)


@pytest.mark.slow
def test_nor_on_the_engine(dataset, recording, tmp_path):
    """A local Ray with two workers."""
    other = Path(shutil.copytree(dataset, tmp_path / "other"))
    annotate(dataset, recorded(recording))
    try:
        done = annotate(other, recorded(recording), engine="ray", processes=2)
    finally:
        import ray

        ray.shutdown()
    assert done.skipped == {}
    assert videos(dataset) == videos(other)


@pytest.mark.slow
def test_a_second_run_does_nothing_and_another_is_refused(dataset, recording, monkeypatch):
    annotate(dataset, recorded(recording))
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    assert annotate(dataset, recorded(recording)).episodes == 3
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before
    with pytest.raises(UserError, match=r"has observation.images.main_depth already, made from something else"):
        annotate(dataset, recorded(recording, size=16))
    annotate(dataset, recorded(recording, name="second"))
    assert set(open_dataset(dataset).info.keys("depth")) == {DEPTH, "observation.images.second"}


def test_a_killed_run_goes_on(dataset, recording, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FeatureAdder, "finish", die)
        with pytest.raises(KeyboardInterrupt):
            annotate(dataset, recorded(recording))
    for path in recording.iterdir():  # what is staged is not made again, whatever is there by now
        np.save(path, np.zeros((1, 1, 1), np.uint16))
    assert annotate(dataset, recorded(recording)).skipped == {}
    assert np.abs(stored(dataset, 1) - true_depth(1)).max() < 0.0016


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "episode_000001"),
        (lambda path: np.save(path, np.zeros((9, 32, 32), np.uint16)), "no pixel of the episode has a valid depth"),
        (lambda path: np.save(path, np.load(path)[:5]), "5"),
        (lambda path: np.save(path, true_depth(1) * 1000), "mm|millimetres"),
    ],
    ids=["missing", "all invalid", "too short", "wrong unit"],
)
def test_a_bad_episode_is_listed_and_the_rest_is_done(spoil, reason, dataset, recording, capsys):
    spoil(recording / "episode_000001.npy")
    code = main(["annotate", str(dataset), "--estimator", "recorded", "--weights", str(recording)])
    out = capsys.readouterr().out
    assert code == 1
    assert "2 of 3 episodes have observation.images.main_depth" in out
    (line,) = [line for line in out.splitlines() if line.startswith("episode 1 skipped: ")]
    assert re.search(reason, line)
    assert (stored(dataset, 1) == 0).all() and len(stored(dataset, 1)) == LENGTHS[1]
    assert np.abs(stored(dataset, 2) - true_depth(2)).max() < 0.0016


def test_a_damaged_video_is_its_episodes_trouble(dataset, recording):
    (video,) = (dataset / "videos" / "observation.images.main").rglob("*.mp4")
    content = video.read_bytes()
    video.write_bytes(content[: int(len(content) * 0.9)])
    done = annotate(dataset, recorded(recording))
    assert done.skipped and all(str(video) in reason for reason in done.skipped.values())


def test_time_that_does_not_go_forward_is_its_episodes_trouble(dataset, recording):
    import pyarrow.parquet as pq

    (path,) = (dataset / "data").rglob("*.parquet")
    table = pq.read_table(path)
    times = table["timestamp"].to_pylist()
    times[LENGTHS[0] + 3] = times[LENGTHS[0] + 2]
    place = table.column_names.index("timestamp")
    pq.write_table(table.set_column(place, "timestamp", [np.array(times, np.float32)]), path)
    done = annotate(dataset, recorded(recording))
    assert list(done.skipped) == [1]
    assert "episode 1: the timestamp of frame 3 is not after that of the one before" in done.skipped[1]


def test_what_was_in_the_way_is_tried_again_before_the_feature_is_complete(dataset, recording, monkeypatch):
    good = np.load(recording / "episode_000001.npy")
    np.save(recording / "episode_000001.npy", np.zeros_like(good))

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FeatureAdder, "finish", die)
        with pytest.raises(KeyboardInterrupt):
            annotate(dataset, recorded(recording))
    np.save(recording / "episode_000001.npy", good)
    assert annotate(dataset, recorded(recording)).skipped == {}
    assert np.abs(stored(dataset, 1) - true_depth(1)).max() < 0.0016


def test_what_lies_beyond_the_range_is_unknown(dataset, recording):
    far = np.load(recording / "episode_000002.npy")
    far[:, 10:12] = 12_000  # millimetres; the dataset ends at 10 m
    np.save(recording / "episode_000002.npy", far)
    annotate(dataset, recorded(recording))
    assert (stored(dataset, 2)[:, 10:12] == 0).all() and (stored(dataset, 2)[:, 20] > 0).all()


def test_no_worker_is_told(dataset, recording):
    with pytest.raises(UserError, match="processes is 0"):
        annotate(dataset, recorded(recording), processes=0)


def test_what_is_not_there(dataset, recording, tmp_path):
    for arguments, sentence in (
        (["--camera", "wrist"], "no camera 'wrist'; there is: main"),
        (["--weights", str(tmp_path / "nothing")], "nothing"),
    ):
        with pytest.raises(UserError, match=sentence):
            annotation = {"weights": str(recording)} | dict(
                zip([a.removeprefix("--") for a in arguments[::2]], arguments[1::2], strict=True)
            )
            annotate(dataset, Annotation("recorded", **annotation))
    with pytest.raises(UserError, match="there is no dataset here"):
        annotate(tmp_path / "elsewhere", recorded(recording))
    assert not list(tmp_path.glob("*adding*"))
