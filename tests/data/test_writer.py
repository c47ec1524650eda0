"""Episodes are staged one by one, survive a kill, and become a dataset at once."""

import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.conftest import FEATURES, LENGTHS, TASKS, Recorded, make_frames

from fathom.data import staging
from fathom.data.dataset import open_dataset
from fathom.data.depth_codec import DepthCodec
from fathom.data.features import Feature
from fathom.data.writer import DatasetWriter
from fathom.errors import UserError


def test_what_is_written_is_read_back(recorded: Recorded) -> None:
    dataset = open_dataset(recorded.root, depth=True, labels=["main_segmentation"])
    assert len(dataset) == sum(LENGTHS)
    samples = list(dataset)
    for name in ("observation.state", "observation.gripper"):
        np.testing.assert_array_equal(np.stack([s[name] for s in samples]), recorded.all(name))
    np.testing.assert_array_equal(np.stack([s["action"][0] for s in samples]), recorded.all("action"))
    labels = np.stack([s["observation.images.main_segmentation"] for s in samples])[:, 0]
    np.testing.assert_array_equal(labels, recorded.all("observation.images.main_segmentation"))
    assert dataset.info.features["observation.images.main_segmentation"].label_names == {0: "table", 300: "arm"}
    for camera in ("main", "wrist"):
        name = f"observation.images.{camera}"
        ours = np.stack([s[name] for s in samples]).transpose(0, 2, 3, 1).astype(float)
        error = np.abs(ours - recorded.all(name))
        assert error.mean() < 1.5 and error.max() < 60
    depth = np.stack([s["observation.images.main_depth"] for s in samples])[:, 0]
    error = np.abs(depth - recorded.all("observation.images.main_depth"))
    assert error.max() < 0.6 * np.diff(DepthCodec().table).max()  # half a step of the code
    assert error.max() < 1.5e-3
    assert [s["task"] for s in samples] == [TASKS[n % 2] for n, length in enumerate(LENGTHS) for _ in range(length)]
    assert [int(s["index"]) for s in samples] == list(range(len(samples)))
    assert [int(s["frame_index"]) for s in samples] == [t for length in LENGTHS for t in range(length)]
    np.testing.assert_allclose([float(s["timestamp"]) for s in samples], [int(s["frame_index"]) / 20 for s in samples])


def test_invalid_and_far_depth_come_back_as_the_codecs_ends() -> None:
    codec = DepthCodec()
    depth = codec.decode(codec.encode(np.array([np.nan, 0.0, -1.0, np.inf, 50.0])))
    np.testing.assert_allclose(depth, [0.01, 0.01, 0.01, 10.0, 10.0], rtol=1e-6)


@pytest.mark.parametrize("codec", [DepthCodec(), DepthCodec(0.2, 5.0, 0.0), DepthCodec(use_log=False)])
def test_depth_codes_are_monotonic_and_within_half_a_step(codec: DepthCodec) -> None:
    assert (np.diff(codec.table) > 0).all()
    np.testing.assert_array_equal(codec.encode(codec.table), np.arange(4096))
    depth = np.linspace(codec.minimum, codec.maximum, 10001, dtype=np.float32)
    assert np.abs(codec.decode(codec.encode(depth)) - depth).max() <= 0.51 * np.diff(codec.table).max()
    assert DepthCodec.from_info(codec.to_info()) == codec


def test_nothing_is_visible_before_the_dataset_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "dataset"
    writer = DatasetWriter(root, FEATURES, fps=20)
    writer.stage_episode(0, make_frames(3, 0), "push")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fathom.data.joining.join_videos", killed)
        with pytest.raises(KeyboardInterrupt):
            writer.finish()
    assert not root.exists()
    assert writer.finish() == root  # a second attempt starts from the staged episodes
    assert len(open_dataset(root)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset"]


def _stage_until_killed(root: Path) -> None:
    writer = DatasetWriter(root, {"action": Feature.vector(1), "observation.images.main": Feature.rgb(32, 32)}, fps=20)
    original = staging.write_json

    def die_in_the_third(path: Path, value: Any) -> None:
        if "episode-000002" in str(path):
            os.kill(os.getpid(), signal.SIGKILL)
        original(path, value)

    staging.write_json = die_in_the_third
    for number in range(4):
        frames = {"action": np.full((2, 1), number, np.float32)}
        frames["observation.images.main"] = np.zeros((2, 32, 32, 3), np.uint8)
        writer.stage_episode(number, frames, "push")


def test_a_killed_process_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "dataset"
    process = multiprocessing.get_context("fork").Process(target=_stage_until_killed, args=(root,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    features = {"action": Feature.vector(1), "observation.images.main": Feature.rgb(32, 32)}
    writer = DatasetWriter(root, features, fps=20)
    assert writer.staged_episodes() == [0, 1]
    monkeypatch.setattr("fathom.data.writer.stage", lambda *_: pytest.fail("a staged episode was made again"))
    writer.stage_episode(1, {}, "push")
    monkeypatch.undo()
    for number in (2, 5):  # numbers may have gaps: failed episodes are left out
        frames = {"action": np.full((2, 1), number, np.float32)}
        frames["observation.images.main"] = np.zeros((2, 32, 32, 3), np.uint8)
        writer.stage_episode(number, frames, "push")
    writer.finish()
    dataset = open_dataset(root)
    assert dataset.columns["action"][:, 0].tolist() == [0, 0, 1, 1, 2, 2, 5, 5]
    assert [episode.index for episode in dataset.episodes] == [0, 1, 2, 3]
    assert not writer.staging.exists()


def test_staging_for_another_dataset_is_refused(tmp_path: Path) -> None:
    DatasetWriter(tmp_path / "dataset", {"action": Feature.vector(1)}, fps=20)
    DatasetWriter(tmp_path / "dataset", {"action": Feature.vector(1)}, fps=20)
    with pytest.raises(UserError, match=r"dataset\.staging: .*other features"):
        DatasetWriter(tmp_path / "dataset", {"action": Feature.vector(2)}, fps=20)
    with pytest.raises(UserError, match="another rate"):
        DatasetWriter(tmp_path / "dataset", {"action": Feature.vector(1)}, fps=10)


def test_videos_of_different_encoders_are_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is taken up after an update: a decoder reads its instructions once per file."""
    features = {"observation.images.main": Feature.rgb(48, 64)}
    writer = DatasetWriter(tmp_path / "dataset", features, fps=20)
    episodes = [{"observation.images.main": make_frames(4, seed)["observation.images.main"]} for seed in (0, 1)]
    writer.stage_episode(0, episodes[0], "push")
    monkeypatch.setattr(staging, "RGB", replace(staging.RGB, options={"crf": "20", "preset": "slow", "bf": "0"}))
    writer.stage_episode(1, episodes[1], "push")
    dataset = open_dataset(writer.finish())
    assert len({episode.videos["observation.images.main"][0] for episode in dataset.episodes}) == 2
    for i, sample in enumerate(dataset):
        original = episodes[i // 4]["observation.images.main"][i % 4].transpose(2, 0, 1)
        assert np.abs(sample["observation.images.main"].numpy() - original.astype(float)).mean() < 4


def test_an_existing_dataset_is_not_overwritten(recorded: Recorded) -> None:
    with pytest.raises(UserError, match="something is already here"):
        DatasetWriter(recorded.root, FEATURES, fps=20)


BAD_FRAMES = {
    "NaN action": ("action", lambda v: v.__setitem__((3, 1), np.nan), r"episode-000007, frame 3: action is not finite"),
    "infinite state": ("observation.state", lambda v: v.__setitem__((0, 0), np.inf), "frame 0: observation.state"),
    "length": ("action", lambda v: v[:-1], r"same number of frames.* action 3"),
    "shape": ("observation.state", lambda v: v[:, :2], r"observation.state has shape \(2,\).*\(3,\) is expected"),
    "size": ("observation.images.main", lambda v: v[:, ::2], r"observation.images.main has shape \(24, 64, 3\)"),
    "colour type": ("observation.images.main", lambda v: v / 255, "uint8 in 0…255 is expected"),
    "depth type": ("observation.images.main_depth", lambda v: v.astype(np.uint16), "metres are expected"),
    "label range": ("observation.images.main_segmentation", lambda v: v - 1, "integers in 0…65535"),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_bad_frames_are_refused_by_name_and_frame(tmp_path: Path, case: str) -> None:
    name, spoil, message = BAD_FRAMES[case]
    frames = make_frames(4, 0)
    spoiled = spoil(frames[name])
    frames[name] = frames[name] if spoiled is None else spoiled
    writer = DatasetWriter(tmp_path / "dataset", FEATURES, fps=20)
    with pytest.raises(UserError, match=message):
        writer.stage_episode(7, frames, "push")
    assert writer.staged_episodes() == []
    assert [path.name for path in writer.staging.iterdir()] == ["writer.json"]


def test_missing_and_unknown_features_are_refused(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "dataset", {"action": Feature.vector(1)}, fps=20)
    action = np.zeros((2, 1), np.float32)
    with pytest.raises(UserError, match="'action' is missing"):
        writer.stage_episode(0, {}, "push")
    with pytest.raises(UserError, match="'velocity' is not a feature"):
        writer.stage_episode(0, {"action": action, "velocity": action}, "push")
    with pytest.raises(UserError, match="no episode was recorded"):
        writer.finish()
    writer.stage_episode(0, {"action": action}, "push")
    with pytest.raises(UserError, match=r"split 'train' is range\(0, 2\), but there are 1"):
        writer.finish({"train": range(2)})


@pytest.mark.parametrize("name", ["observation/state", "timestamp"])
def test_reserved_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="reserved or holds a '/'"):
        DatasetWriter(tmp_path / "dataset", {name: Feature.vector(1)}, fps=20)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from fathom.data.features import Feature
from fathom.data.writer import DatasetWriter
from fathom.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
pictures = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3)).astype(np.uint8)
writer = DatasetWriter(Path(sys.argv[1]), {"observation.images.main": Feature.rgb(64, 64)}, fps=20)
writer.stage_episode(0, {"observation.images.main": pictures[:2]}, "push")
if sys.argv[2] == "finish":
    writer.stage_episode(1, {"observation.images.main": pictures}, "push")
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    if sys.argv[2] == "finish":
        writer.finish()
    else:
        writer.stage_episode(1, {"observation.images.main": pictures}, "push")
except UserError as error:
    print(error)
    print(writer.staged_episodes(), Path(sys.argv[1]).exists())
"""


@pytest.mark.parametrize(("when", "kept"), [("stage", "[0]"), ("finish", "[0, 1]")])
def test_a_full_disk_is_told_and_keeps_what_is_complete(tmp_path: Path, when: str, kept: str) -> None:
    """A limit on the size of files stands for a full disk: the system refuses to write on."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "dataset"), when]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert "the disk is full; free some space" in output[0]
    assert output[1] == f"{kept} False"
