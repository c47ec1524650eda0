"""What lerobot wrote we read as lerobot does; what we write is laid out as lerobot's own."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.data.conftest import GOLDEN, LENGTHS, Recorded

from fathom.data.dataset import open_dataset
from fathom.data.features import DatasetInfo
from fathom.data.verify import verify_lerobot
from fathom.errors import UserError

KINDS = ["video", "image"]


@pytest.mark.parametrize("kind", KINDS)
def test_our_reader_returns_what_lerobots_does(kind: str) -> None:
    report = verify_lerobot(GOLDEN / f"lerobot_v3_{kind}", GOLDEN / f"lerobot_v3_{kind}_expected.npz")
    assert report["ok"]
    assert report["max"]["observation.images.main_depth"] <= 0.51  # lerobot rounds to whole millimetres
    compared = {"observation.images.main", "observation.images.side", "observation.state", "action", "action_is_pad"}
    assert compared | {"timestamp", "episode_index", "frame_index", "task_index", "task"} < set(report["max"])
    assert all(value == 0 for name, value in report["max"].items() if not name.endswith("depth"))


@pytest.mark.parametrize(
    ("name", "change", "difference"),
    [
        ("observation.images.main", 3, 3),
        ("observation.images.main_depth", 2.0, 1.5),
        ("action", 1e-6, 1e-7),
        ("timestamp", 1e-3, 1e-4),
        ("task", None, 0.1),
    ],
)
def test_verification_fails_on_a_difference(tmp_path: Path, name: str, change: Any, difference: float) -> None:
    expected = dict(np.load(GOLDEN / "lerobot_v3_video_expected.npz"))
    if change is None:
        expected[name][0] = "close the door"
    else:
        expected[name].reshape(-1)[0] += np.asarray(change, expected[name].dtype)
    np.savez(tmp_path / "expected.npz", **expected)
    report = verify_lerobot(GOLDEN / "lerobot_v3_video", tmp_path / "expected.npz")
    assert not report["ok"]
    assert report["max"][name] >= difference
    json.dumps(report)


def test_verification_refuses_what_it_cannot_compare(tmp_path: Path) -> None:
    dataset = GOLDEN / "lerobot_v3_video"
    with pytest.raises(UserError, match="there is no such file"):
        verify_lerobot(dataset, tmp_path / "absent.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not a zip file")
    with pytest.raises(UserError, match="not a readable"):
        verify_lerobot(dataset, tmp_path / "broken.npz")
    np.savez(tmp_path / "other.npz", indices=np.array([0]), velocity=np.zeros(1))
    with pytest.raises(UserError, match=r"'velocity' is not in .*observation.state"):
        verify_lerobot(dataset, tmp_path / "other.npz")
    np.savez(tmp_path / "long.npz", indices=np.array([60]))
    with pytest.raises(UserError, match="frame 60 is expected"):
        verify_lerobot(dataset, tmp_path / "long.npz")


def _encoded(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("unit", "kind", "pixels", "metres"),
    [
        ("mm", "PNG", np.uint16([[1500, 40000]]), [[1.5, 40.0]]),
        ("mm", "TIFF", np.uint8([[15, 250]]), [[0.015, 0.25]]),
        ("m", "TIFF", np.float32([[1.5, 0.25]]), [[1.5, 0.25]]),
        ("mm", "TIFF", np.float32([[1500.5, 250.0]]), [[1.5005, 0.25]]),
        (None, "TIFF", np.uint16([[1500, 250]]), [[1.5, 0.25]]),
        (None, "TIFF", np.float32([[1.5, 0.25]]), [[1.5, 0.25]]),
    ],
)
def test_depth_images_of_every_type_and_unit_come_in_metres(
    copy_of: Callable[[Path], Path], unit: str | None, kind: str, pixels: np.ndarray, metres: list[list[float]]
) -> None:
    root = copy_of(GOLDEN / "lerobot_v3_image")
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    name = "observation.images.main_depth"
    images = [{"bytes": _encoded(pixels, kind), "path": "frame.x"}] * len(table)
    column = pa.array(images, table.schema.field(name).type)
    pq.write_table(table.set_column(table.schema.names.index(name), name, column), path, row_group_size=7)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][name]["info"] = {"is_depth_map": True} | ({"depth_unit": unit} if unit else {})
    (root / "meta/info.json").write_text(json.dumps(info))
    sample = open_dataset(root, cameras=[], depth=["main_depth"])[39]
    np.testing.assert_allclose(sample[name].numpy()[0], metres, rtol=1e-6)


def test_a_marker_of_depth_from_older_datasets_is_understood(copy_of: Callable[[Path], Path]) -> None:
    root = copy_of(GOLDEN / "lerobot_v3_video")
    info = json.loads((root / "meta/info.json").read_text())
    feature = info["features"]["observation.images.main_depth"]
    feature["video_info"] = {"video.is_depth_map": True, **feature.pop("info")}
    del feature["video_info"]["is_depth_map"]
    (root / "meta/info.json").write_text(json.dumps(info))
    assert verify_lerobot(root, GOLDEN / "lerobot_v3_video_expected.npz")["ok"]


def _leaves(table: pa.Table) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in table.schema}


def test_tables_have_lerobots_columns_and_types(recorded: Recorded) -> None:
    def read(root: Path, name: str) -> pa.Table:
        return pq.read_table(root / name)

    ours, theirs = recorded.root, GOLDEN / "lerobot_v3_video"
    data = "data/chunk-000/file-000.parquet"
    index_columns = ["timestamp", "frame_index", "episode_index", "index", "task_index"]
    assert [_leaves(read(ours, data))[name] for name in index_columns] == [
        _leaves(read(theirs, data))[name] for name in index_columns
    ]
    images = "observation.images.main_segmentation"
    their_images = _leaves(read(GOLDEN / "lerobot_v3_image", data))["observation.images.main"]
    assert _leaves(read(ours, data))[images] == their_images
    assert read(ours, data).schema.field("observation.state").type == pa.list_(pa.float32(), 3)
    assert read(ours, data).schema.field("observation.gripper").type == pa.float32()
    # same episode columns, apart from the features' own names
    episodes = "meta/episodes/chunk-000/file-000.parquet"
    shared = {name: kind for name, kind in _leaves(read(theirs, episodes)).items() if "images.side" not in name}
    mine = _leaves(read(ours, episodes))
    assert {name: mine.get(name) for name in shared} == shared
    tasks = "meta/tasks.parquet"
    assert _leaves(read(ours, tasks)) == _leaves(read(theirs, tasks))
    our_pandas, their_pandas = (json.loads(read(r, tasks).schema.metadata[b"pandas"]) for r in (ours, theirs))
    assert our_pandas | {"creator": their_pandas["creator"]} == their_pandas


def test_info_and_stats_have_lerobots_fields(recorded: Recorded) -> None:
    ours, theirs = (
        json.loads((root / "meta/info.json").read_text()) for root in (recorded.root, GOLDEN / "lerobot_v3_video")
    )
    assert set(ours) == set(theirs)
    assert ours["codebase_version"] == "v3.0"
    for name in ("observation.images.main", "observation.images.main_depth"):
        their_info = theirs["features"][name]["info"]
        # what is ours alone has our name before it, and means something to us alone
        assert {key for key in ours["features"][name]["info"] if not key.startswith("fathom.")} == set(their_info)
    depth = ours["features"]["observation.images.main_depth"]["info"]
    for key in ("is_depth_map", "depth_unit", "video.codec", "video.pix_fmt", "video.depth_min", "video.depth_max"):
        assert depth[key] == theirs["features"]["observation.images.main_depth"]["info"][key]
    assert (ours["total_episodes"], ours["total_frames"], ours["total_tasks"]) == (5, sum(LENGTHS), 2)
    assert ours["splits"] == {"train": "0:4", "validation": "4:5"}
    our_stats, their_stats = (
        json.loads((root / "meta/stats.json").read_text()) for root in (recorded.root, GOLDEN / "lerobot_v3_video")
    )
    assert set(our_stats) == set(ours["features"])
    for name in ("observation.images.main", "observation.images.main_depth", "observation.state", "timestamp"):
        assert set(our_stats[name]) == set(their_stats[name])
    assert np.shape(our_stats["observation.images.main"]["mean"]) == (3, 1, 1)
    assert np.shape(our_stats["observation.images.main_depth"]["q99"]) == (1, 1, 1)


def test_video_clocks_are_exact(recorded: Recorded) -> None:
    """lerobot finds frames by timestamp, torchcodec by the average rate: both must be exact in every joined file."""
    info = DatasetInfo.load(recorded.root)
    files = sorted((recorded.root / "videos" / "observation.images.main").rglob("*.mp4"))
    assert len(files) > 2, "the episodes should lie in several files"
    assert {path.parent.name for path in files} >= {"chunk-000", "chunk-001"}
    total = 0
    for path in files:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.average_rate == info.fps
            times = [frame.pts * stream.time_base for frame in container.decode(stream)]
            assert times == [number / stream.average_rate for number in range(len(times))]
            assert stream.duration * stream.time_base == len(times) / stream.average_rate
            total += len(times)
    assert total == sum(LENGTHS)
