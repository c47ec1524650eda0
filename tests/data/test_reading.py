"""Frames, windows and selections; and what a damaged dataset says."""

import json
import random
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.conftest import FEATURES, GOLDEN, LENGTHS, TASKS, Recorded, make_frames

from fathom.data.dataset import open_dataset
from fathom.data.video import VideoReader
from fathom.data.writer import DatasetWriter
from fathom.errors import UserError

Copy = Callable[[Path], Path]
CLIPS = [
    (GOLDEN / "lerobot_v3_video/videos/observation.images.main/chunk-000/file-000.mp4", "rgb24"),
    # with B-frames, and key frames that are shown after frames which need the one before
    (GOLDEN / "lerobot_v3_video/videos/observation.images.main_depth/chunk-000/file-000.mp4", "gray12le"),
]


@pytest.mark.parametrize(("path", "pictures"), CLIPS)
def test_seeking_equals_decoding_in_order(path: Path, pictures: str) -> None:
    reader = VideoReader(path, pictures, fps=10)
    in_order = [reader.picture_at(number / 10) for number in range(60)]
    assert all((a != b).any() for a, b in pairwise(in_order))
    order = random.Random(0).sample(range(60), 60)
    for number in order:
        np.testing.assert_array_equal(reader.picture_at(number / 10), in_order[number])
        np.testing.assert_array_equal(VideoReader(path, pictures, fps=10).picture_at(number / 10), in_order[number])


def test_seeking_equals_decoding_in_order_in_our_own_videos(recorded: Recorded) -> None:
    dataset = open_dataset(recorded.root, depth=True)
    in_order = list(dataset)
    for i in random.Random(0).sample(range(len(dataset)), len(dataset)):
        sample = dataset[i]
        for name in dataset.pictures:
            assert torch.equal(sample[name], in_order[i][name]), (name, i)


def test_a_sample_has_the_promised_types_and_shapes(recorded: Recorded) -> None:
    sample = open_dataset(recorded.root, depth=True, labels=["main_segmentation"], horizon=5)[10]
    shapes = {name: (value.dtype, tuple(value.shape)) for name, value in sample.items() if name != "task"}
    assert shapes == {
        "observation.images.main": (torch.uint8, (3, 48, 64)),
        "observation.images.wrist": (torch.uint8, (3, 32, 32)),
        "observation.images.main_depth": (torch.float32, (1, 48, 64)),
        "observation.images.main_segmentation": (torch.int32, (1, 48, 64)),
        "observation.state": (torch.float32, (3,)),
        "observation.gripper": (torch.float32, (1,)),
        "action": (torch.float32, (5, 2)),
        "action_is_pad": (torch.bool, (5,)),
        "timestamp": (torch.float32, ()),
        **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), (torch.int64, ())),
    }
    assert sample["task"] == TASKS[1]


@settings(max_examples=60, deadline=None)
@given(frame=st.integers(0, sum(LENGTHS) - 1), horizon=st.integers(1, max(LENGTHS)))
def test_windows_end_with_their_episode(recorded: Recorded, frame: int, horizon: int) -> None:
    sample = open_dataset(recorded.root, cameras=[], horizon=horizon)[frame]
    episode = int(np.searchsorted(np.cumsum(LENGTHS), frame, side="right"))
    first = sum(LENGTHS[:episode])
    actions = recorded.episodes[episode]["action"]
    left = LENGTHS[episode] - (frame - first)
    expected = [actions[min(frame - first + step, LENGTHS[episode] - 1)] for step in range(horizon)]
    np.testing.assert_array_equal(sample["action"], expected)
    assert sample["action_is_pad"].tolist() == [step >= left for step in range(horizon)]


def test_a_split_and_episodes_select(recorded: Recorded) -> None:
    validation = open_dataset(recorded.root, split="validation", horizon=2)
    assert [episode.index for episode in validation.episodes] == [4]
    assert len(validation) == LENGTHS[4]
    assert int(validation[0]["index"]) == sum(LENGTHS[:4])
    np.testing.assert_array_equal(validation[-1]["action"], np.repeat(recorded.episodes[4]["action"][-1:], 2, axis=0))
    whole, some = open_dataset(recorded.root), open_dataset(recorded.root, episodes=[3, 0])
    assert len(some) == LENGTHS[3] + LENGTHS[0]
    assert torch.equal(some[2]["observation.images.main"], whole[sum(LENGTHS[:3]) + 2]["observation.images.main"])
    with pytest.raises(UserError, match=r"no split 'test'; there is: train, validation"):
        open_dataset(recorded.root, split="test")
    with pytest.raises(UserError, match="there is no episode 4"):
        open_dataset(recorded.root, split="train", episodes=[4])


def test_cameras_and_features_that_are_absent_are_named(recorded: Recorded, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no camera 'front'; there is: main, wrist"):
        open_dataset(recorded.root, cameras=["main", "front"])
    with pytest.raises(UserError, match=r"no depth feature 'wrist_depth'; there is: main_depth"):
        open_dataset(recorded.root, depth=["wrist_depth"])
    with pytest.raises(UserError, match=r"no label feature 'x'; there is: main_segmentation"):
        open_dataset(recorded.root, labels=["x"])
    features = {name: FEATURES[name] for name in ("observation.images.main", "action")}
    writer = DatasetWriter(tmp_path / "plain", features, fps=20)
    writer.stage_episode(0, {name: make_frames(3, 0)[name] for name in features}, "push")
    plain = writer.finish()
    with pytest.raises(UserError, match=r"plain: the dataset has no depth feature"):
        open_dataset(plain, depth=True)
    with pytest.raises(UserError, match=r"plain: there is no feature 'observation.state'.*action"):
        open_dataset(plain).batch([0])


def test_what_is_no_dataset_of_this_version_is_told(tmp_path: Path, copy_of: Copy) -> None:
    with pytest.raises(UserError, match=r"absent: there is no dataset here"):
        open_dataset(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: not a LeRobot dataset, meta/info.json is missing"):
        open_dataset(tmp_path / "empty")
    root = copy_of(GOLDEN / "lerobot_v3_video")
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    with pytest.raises(UserError, match=r"a LeRobot v2\.1 dataset, but v3\.0 is expected; convert it with"):
        open_dataset(root)
    (root / "meta/info.json").write_text(json.dumps(info)[:200])
    with pytest.raises(UserError, match=r"info\.json: not a readable LeRobot info file"):
        open_dataset(root)


def test_actions_that_are_not_finite_are_named_by_frame(copy_of: Copy) -> None:
    root = copy_of(GOLDEN / "lerobot_v3_video")
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[25]["action"][2] = float("nan")
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    with pytest.raises(UserError, match=r"file-000\.parquet: action of episode 1, frame 2 is not finite"):
        open_dataset(root)
    assert len(open_dataset(root, episodes=[0, 2])) == 43


VIDEO = "videos/observation.images.main/chunk-000/file-000.mp4"
DEPTH = "videos/observation.images.main_depth/chunk-000/file-000.mp4"


def _damage(path: Path, share: float, size: int = 60) -> None:
    content = bytearray(path.read_bytes())
    begin = int(len(content) * share)
    content[begin : begin + size] = random.Random(0).randbytes(size)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", [VIDEO, DEPTH])
def test_a_damaged_video_is_told_by_file_and_frame(recorded: Recorded, copy_of: Copy, name: str) -> None:
    root = copy_of(recorded.root)
    _damage(root / name, 0.4)
    dataset = open_dataset(root, depth=True, episodes=[0])
    with pytest.raises(UserError, match=rf"{name}: frame \d+ \(at \d\.\d+ s\) cannot be read .*truncated or corrupt"):
        list(dataset)


def test_a_truncated_video_is_told_by_file_and_frame(recorded: Recorded, copy_of: Copy) -> None:
    root = copy_of(recorded.root)
    content = (root / VIDEO).read_bytes()
    (root / VIDEO).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"{VIDEO}: frame 5 \(at 0\.250 s\) cannot be read .*truncated or corrupt"):
        open_dataset(root)[5]
    (root / VIDEO).write_bytes(b"")
    with pytest.raises(UserError, match=rf"{VIDEO}: frame 5"):
        open_dataset(root)[5]


def test_a_video_that_ends_too_early_is_told(recorded: Recorded, copy_of: Copy) -> None:
    root = copy_of(recorded.root)
    shutil.copy(root / VIDEO.replace("file-000", "file-001"), root / VIDEO)  # episode 3 fits, episode 0 does not
    dataset = open_dataset(root, episodes=[0])
    held = round(20 * _duration(root / VIDEO))
    assert held < LENGTHS[0]
    with pytest.raises(UserError, match=rf"{VIDEO}: frame {held} .*it is not in the file"):
        list(dataset)


def _duration(path: Path) -> float:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return float(stream.duration * stream.time_base)


def test_missing_files_are_named(recorded: Recorded, copy_of: Copy) -> None:
    root = copy_of(recorded.root)
    (root / VIDEO).unlink()
    dataset = open_dataset(root)
    with pytest.raises(UserError, match=rf"{VIDEO}: this video is missing"):
        dataset[0]
    (root / "meta/stats.json").unlink()
    with pytest.raises(UserError, match=r"stats\.json: the statistics are missing"):
        _ = dataset.stats
    data = root / "data/chunk-000/file-000.parquet"
    content = data.read_bytes()
    data.unlink()
    with pytest.raises(UserError, match=r"file-000\.parquet: this file of the dataset is missing"):
        open_dataset(root)
    data.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"file-000\.parquet: truncated or damaged"):
        open_dataset(root)


def test_rows_that_are_missing_are_told(copy_of: Copy) -> None:
    root = copy_of(GOLDEN / "lerobot_v3_video")
    path = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 50), path)
    with pytest.raises(UserError, match=r"episode 2 should have 20 frames, 10 are there"):
        open_dataset(root)


def test_rows_in_another_order_are_found(copy_of: Copy) -> None:
    root = copy_of(GOLDEN / "lerobot_v3_image")
    path = root / "data/chunk-000/file-000.parquet"
    expected = open_dataset(root)
    table = pq.read_table(path)
    pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), path, row_group_size=9)
    shuffled = open_dataset(root)
    for i in (0, 22, 23, 39):
        for name in ("observation.state", "observation.images.side", "index"):
            assert torch.equal(shuffled[i][name], expected[i][name])


def test_a_damaged_picture_in_a_table_is_told_by_file_and_frame(copy_of: Copy) -> None:
    root = copy_of(GOLDEN / "lerobot_v3_image")
    path = root / "data/chunk-000/file-000.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[7]["observation.images.side"]["bytes"] = rows[7]["observation.images.side"]["bytes"][:900]
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    dataset = open_dataset(root)
    assert dataset[6]["index"] == 6
    with pytest.raises(UserError, match=r"file-000\.parquet: observation\.images\.side of frame 7 cannot be read"):
        dataset[7]
