"""LeRobot v2.1 datasets, written here file by file, become v3.0 with the same frames."""

import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.convert.records import png, smooth_pictures
from tests.data.convert.test_rlds import rows

from fathom.cli.main import main
from fathom.data.convert import lerobot_v21
from fathom.data.convert.lerobot_v21 import convert_lerobot_v21
from fathom.data.dataset import open_dataset
from fathom.errors import UserError

FPS = 10
LENGTHS = [6, 4, 5, 7]
TASKS = ["push", "pull"]
CAMERA = "observation.images.top"
ENCODERS = {
    "av1": ("libsvtav1", {"g": "2", "crf": "30", "preset": "12", "svtav1-params": "lp=1"}),  # as lerobot's v2.1 writes
    "h264": ("libx264", {"g": "2", "bf": "0", "threads": "1"}),
    "h264 with B-frames": ("libx264", {"g": "12", "bf": "2", "b-adapt": "0", "threads": "1"}),
}


def encode(pictures: np.ndarray, kind: str) -> bytes:
    encoder, options = ENCODERS[kind]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(encoder, rate=FPS, options=dict(options))
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def numbers(episode: int) -> dict[str, np.ndarray]:
    random, length = np.random.default_rng(episode), LENGTHS[episode]
    return {
        "observation.state": random.normal(size=(length, 3)).astype(np.float32),
        "action": random.normal(size=(length, 2)).astype(np.float32),
        "next.reward": random.normal(size=length).astype(np.float32),
        "next.done": np.arange(length) == length - 1,
    }


def table(episode: int, images: bool) -> pa.Table:
    length, values = LENGTHS[episode], numbers(episode)
    frames = np.arange(length)
    columns: dict[str, Any] = {
        "observation.state": pa.array(values["observation.state"].tolist(), pa.list_(pa.float32())),
        "action": pa.array(values["action"].tolist(), pa.list_(pa.float32())),
        "next.reward": values["next.reward"],
        "next.done": values["next.done"],
        "timestamp": (frames / FPS).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full(length, episode),
        "index": frames + sum(LENGTHS[:episode]),
        "task_index": np.where(frames < 2, 0, episode % 2),  # two tasks in one episode
    }
    if images:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        files = [{"bytes": png(p), "path": f"frame_{i}.png"} for i, p in enumerate(smooth_pictures(length, 24, 32, 1))]
        columns["observation.images.side"] = pa.array(files, kind)
    return pa.table(columns)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def picture_stats(pictures: np.ndarray) -> dict[str, Any]:
    channels = pictures.reshape(-1, 3) / 255

    def shaped(values: np.ndarray) -> list[Any]:
        return values.reshape(3, 1, 1).tolist()

    made = {name: shaped(getattr(channels, name)(axis=0)) for name in ("min", "max", "mean", "std")}
    return {**made, "count": [len(pictures)]}


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(kind: str = "h264", version: str = "v2.1", images: bool = False) -> Path:
        root = tmp_path / "old"
        features: dict[str, Any] = {
            CAMERA: {"dtype": "video", "shape": [24, 32, 3], "names": ["height", "width", "channels"]},
            "observation.state": {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]},
            "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["a", "b"]}},
            "next.reward": {"dtype": "float32", "shape": [1], "names": None},
            "next.done": {"dtype": "bool", "shape": [1], "names": None},
            **{name: {"dtype": "int64", "shape": [1], "names": None} for name in INDICES},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        }
        features[CAMERA]["info"] = {"video.codec": "av1", "video.is_depth_map": False, "has_audio": False}
        if images:
            features["observation.images.side"] = {**features[CAMERA], "dtype": "image", "info": None}
        stats = []
        for episode, length in enumerate(LENGTHS):
            chunk = f"chunk-{episode // 2:03d}"
            data, video = root / "data" / chunk, root / "videos" / chunk / CAMERA
            data.mkdir(parents=True, exist_ok=True)
            video.mkdir(parents=True, exist_ok=True)
            pq.write_table(table(episode, images), data / f"episode_{episode:06d}.parquet")
            pictures = smooth_pictures(length, 24, 32, episode)
            (video / f"episode_{episode:06d}.mp4").write_bytes(encode(pictures, kind))
            stats.append({"episode_index": episode, "stats": {CAMERA: picture_stats(pictures)}})
        (root / "meta").mkdir()
        info = {
            "codebase_version": version,
            "robot_type": "so100",
            "fps": FPS,
            "features": features,
            "chunks_size": 2,
            "total_episodes": 4,
            "total_chunks": 2,
            "total_videos": 4,
            "splits": {"train": "0:3", "test": "3:4"},
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
            "note": "mine",
        }
        (root / "meta" / "info.json").write_text(json.dumps(info))
        write_lines(root / "meta" / "tasks.jsonl", [{"task_index": i, "task": task} for i, task in enumerate(TASKS)])
        episodes = [{"episode_index": i, "tasks": TASKS[: 1 + i % 2], "length": n} for i, n in enumerate(LENGTHS)]
        write_lines(root / "meta" / "episodes.jsonl", episodes)
        if version == "v2.1":
            write_lines(root / "meta" / "episodes_stats.jsonl", stats)
        else:
            whole = np.concatenate([smooth_pictures(n, 24, 32, i) for i, n in enumerate(LENGTHS)])
            (root / "meta" / "stats.json").write_text(json.dumps({CAMERA: picture_stats(whole)}))
        return root

    return make


INDICES = ("frame_index", "episode_index", "index", "task_index")


def old_video(root: Path, episode: int) -> Path:
    return root / "videos" / f"chunk-{episode // 2:03d}" / CAMERA / f"episode_{episode:06d}.mp4"


def old_table(root: Path, episode: int) -> Path:
    return root / "data" / f"chunk-{episode // 2:03d}" / f"episode_{episode:06d}.parquet"


@pytest.mark.parametrize(("kind", "version"), [("av1", "v2.1"), ("h264", "v2.0"), ("h264 with B-frames", "v2.1")])
def test_everything_comes_back(make: Make, tmp_path: Path, kind: str, version: str) -> None:
    old = make(kind, version, images=kind == "h264")
    out = tmp_path / "new"
    done = convert_lerobot_v21(old, out)
    assert (done.episodes, done.skipped) == (4, {})
    dataset = open_dataset(out)
    assert len(dataset) == sum(LENGTHS) and dataset.info.robot_type == "so100"
    assert dataset.columns["index"].tolist() == list(range(sum(LENGTHS)))
    for episode, length in enumerate(LENGTHS):
        for name, values in numbers(episode).items():
            np.testing.assert_array_equal(rows(dataset, episode, name).reshape(values.shape), values)
        assert rows(dataset, episode, "task_index").tolist() == [0, 0] + [episode % 2] * (length - 2)
        np.testing.assert_allclose(rows(dataset, episode, "timestamp"), np.arange(length) / FPS, atol=1e-6)
    assert dataset.tasks == TASKS and dataset.episodes[1].tasks == ("push", "pull")
    expected = np.concatenate([decode(old_video(old, episode)) for episode in range(4)]).astype(int)
    read = np.stack([dataset.picture(CAMERA, i).transpose(1, 2, 0) for i in range(len(dataset))]).astype(int)
    if "B-frames" in kind:
        assert np.abs(read - expected).max() <= 12  # encoded anew
        assert dataset.info.features[CAMERA].info["video.pix_fmt"] == "yuv444p"
    else:
        np.testing.assert_array_equal(read, expected)  # the very same packets
        assert dataset.info.features[CAMERA].info["video.pix_fmt"] == "yuv420p"
    if kind == "h264":
        side = np.stack([dataset.picture("observation.images.side", i).transpose(1, 2, 0) for i in range(6)])
        np.testing.assert_array_equal(side, smooth_pictures(6, 24, 32, 1))


def test_splits_names_and_statistics_are_right(make: Make, tmp_path: Path) -> None:
    old = make()
    table = pq.read_table(old_table(old, 1))
    pq.write_table(table.slice(0, 3), old_table(old, 1))
    assert convert_lerobot_v21(old, tmp_path / "new").skipped == {
        "episode 1": "its table has 3 frames, but episodes.jsonl says 4"
    }
    dataset = open_dataset(tmp_path / "new")
    info = json.loads((tmp_path / "new" / "meta" / "info.json").read_text())
    assert info["splits"] == {"train": "0:2", "test": "2:3"} and info["note"] == "mine"
    assert info["codebase_version"] == "v3.0" and "total_chunks" not in info and "total_videos" not in info
    assert info["features"]["action"]["names"] == {"motors": ["a", "b"]}
    assert len(open_dataset(tmp_path / "new", split="test")) == LENGTHS[3]
    kept = [0, 2, 3]
    action = np.concatenate([numbers(episode)["action"] for episode in kept]).astype(np.float64)
    np.testing.assert_allclose(dataset.stats["action"]["q01"], np.quantile(action, 0.01, axis=0))
    np.testing.assert_allclose(dataset.stats["action"]["std"], action.std(axis=0))
    colour = np.concatenate([smooth_pictures(LENGTHS[i], 24, 32, i) for i in kept]).reshape(-1, 3) / 255
    for name in ("min", "max", "mean", "std"):
        ours = dataset.stats[CAMERA][name].reshape(-1)
        np.testing.assert_allclose(ours, getattr(colour, name)(axis=0), atol=1e-9)
    assert dataset.stats[CAMERA]["count"].tolist() == [6 + 5 + 7]


def test_what_cannot_be_read_is_listed_and_the_rest_is_done(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = make()
    video = old_video(old, 0)
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    old_video(old, 1).unlink()
    table = pq.read_table(old_table(old, 2))
    times = table["timestamp"].to_numpy().copy()
    times[3] = times[2]
    place = table.column_names.index("timestamp")
    pq.write_table(table.set_column(place, "timestamp", pa.array(times)), old_table(old, 2))
    assert main(["convert", "lerobot-v21", str(old), "--out", str(tmp_path / "new")]) == 1
    skipped = json.loads((tmp_path / "new" / "meta" / "conversion.json").read_text())["skipped"]
    assert list(skipped) == ["episode 0", "episode 1", "episode 2"]
    assert "truncated or damaged" in skipped["episode 0"]
    assert skipped["episode 1"] == f"the video of {CAMERA} is missing"
    assert skipped["episode 2"] == "the timestamp of frame 3 is not after that of the one before"
    assert "3 skipped" in capsys.readouterr().out
    assert len(open_dataset(tmp_path / "new")) == LENGTHS[3]


def test_other_damage_is_named(make: Make, tmp_path: Path) -> None:
    old = make()
    old_video(old, 0).write_bytes(encode(smooth_pictures(3, 24, 32, 0), "h264"))
    pq.write_table(pq.read_table(old_table(old, 1)).drop_columns(["action"]), old_table(old, 1))
    table = pq.read_table(old_table(old, 2))
    place = table.column_names.index("timestamp")
    late = pa.array(table["timestamp"].to_numpy() * np.float32(2))
    pq.write_table(table.set_column(place, "timestamp", late), old_table(old, 2))
    skipped = convert_lerobot_v21(old, tmp_path / "new", processes=2).skipped
    assert skipped == {
        "episode 0": f"the video of {CAMERA} has 3 frames, but the table has 6: one of them is cut",
        "episode 1": "its table has no column 'action'",
        "episode 2": "the timestamp of frame 1 is 0.200 s, but 0.100 s is expected",
    }


def test_an_interrupted_conversion_goes_on(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make()
    convert_lerobot_v21(old, tmp_path / "undisturbed")
    stage, calls = lerobot_v21._stage, []

    def counted(*arguments: Any) -> None:
        calls.append(arguments[-1].number)
        if len(calls) == 3:
            raise KeyboardInterrupt
        stage(*arguments)

    monkeypatch.setattr(lerobot_v21, "_stage", counted)
    with pytest.raises(KeyboardInterrupt):
        convert_lerobot_v21(old, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    convert_lerobot_v21(old, tmp_path / "new")
    assert calls == [0, 1, 2, 2, 3]
    ours = {p.relative_to(tmp_path / "new"): p.read_bytes() for p in (tmp_path / "new").rglob("*.*") if p.is_file()}
    root = tmp_path / "undisturbed"
    assert ours == {p.relative_to(root): p.read_bytes() for p in root.rglob("*.*") if p.is_file()}
    with pytest.raises(UserError, match="already here"):
        convert_lerobot_v21(old, tmp_path / "new")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda root: change(root, codebase_version="v3.0"), "it needs no conversion"),
        (lambda root: change(root, codebase_version="v1.6"), "a LeRobot v1.6 dataset, but v2.0 or v2.1 is expected"),
        (lambda root: change(root, fps=None), "a field is missing or of the wrong type"),
        (lambda root: (root / "meta" / "episodes.jsonl").unlink(), "episodes.jsonl: missing"),
        (lambda root: (root / "meta" / "episodes.jsonl").write_text('{"episode_index": 0}\n'), "line 1: not readable"),
        (lambda root: (root / "meta" / "info.json").unlink(), "there is no LeRobot dataset in"),
        (
            lambda root: [path.unlink() for path in root.rglob("*.mp4")],
            "no episode can be converted; episode 0: the video",
        ),
    ],
)
def test_bad_input_is_one_sentence(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], Any], sentence: str
) -> None:
    old = make()
    spoil(old)
    assert main(["convert", "lerobot-v21", str(old), "--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error
    assert not (tmp_path / "new").exists() and not (tmp_path / "new.staging").exists()


def change(root: Path, **values: Any) -> None:
    path = root / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
