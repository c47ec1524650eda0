"""RLDS datasets, made as TFDS stores them, become LeRobot datasets that hold the same."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.data.convert.records import example, png, smooth_pictures, write_shards

from fathom.cli.main import main
from fathom.data.convert.conversion import convert
from fathom.data.convert.rlds import RldsSource
from fathom.data.convert.rlds_maps import absolute_gripper
from fathom.data.dataset import LeRobotDataset, open_dataset
from fathom.errors import UserError

OBSERVATION = "steps/observation/"
Features = dict[str, Any]


def bridge_episode(length: int, seed: int, text: str = "put the carrot on the plate") -> Features:
    """As the builder of bridge_dataset 1.0.0 has it: the first action is all zeros."""
    random = np.random.default_rng(seed)
    action = random.normal(size=(length, 7)).astype(np.float32)
    action[0] = 0
    return {
        "steps/action": action,
        f"{OBSERVATION}state": random.normal(size=(length, 7)).astype(np.float32),
        f"{OBSERVATION}image_0": [png(p) for p in smooth_pictures(length, 32, 48, seed)],
        f"{OBSERVATION}image_3": [png(p) for p in smooth_pictures(length, 24, 24, seed + 3)],
        "steps/language_instruction": [text.encode()] * length,
        "steps/language_embedding": random.normal(size=(length, 512)).astype(np.float32),
        "steps/is_first": np.arange(length) == 0,
        "episode_metadata/has_image_0": np.array([1]),
        "episode_metadata/has_image_3": np.array([1]),
        "episode_metadata/file_path": [b"somewhere"],
    }


def fractal_episode(changes: list[float], seed: int) -> Features:
    random = np.random.default_rng(seed)
    length = len(changes)
    return {
        "steps/action/world_vector": random.normal(size=(length, 3)).astype(np.float32),
        "steps/action/rotation_delta": random.normal(size=(length, 3)).astype(np.float32),
        "steps/action/gripper_closedness_action": np.array(changes, np.float32),
        "steps/action/base_displacement_vector": np.zeros((length, 2), np.float32),
        f"{OBSERVATION}base_pose_tool_reached": random.normal(size=(length, 7)).astype(np.float32),
        f"{OBSERVATION}gripper_closed": random.uniform(size=length).astype(np.float32),
        f"{OBSERVATION}image": [png(p) for p in smooth_pictures(length, 32, 40, seed)],
        f"{OBSERVATION}natural_language_instruction": [b"pick coke can"] * length,
    }


def rows(dataset: LeRobotDataset, episode: int, name: str) -> NDArray[Any]:
    chosen = dataset.columns["episode_index"] == episode
    return np.asarray(dataset.columns[name])[chosen]


def pictures(dataset: LeRobotDataset, name: str) -> NDArray[np.int64]:
    frames = [dataset.picture(f"observation.images.{name}", i).transpose(1, 2, 0) for i in range(len(dataset))]
    return np.stack(frames).astype(np.int64)


def test_bridge_comes_back(tmp_path: Path) -> None:
    episodes = [bridge_episode(5, 0), bridge_episode(4, 1, "open the drawer"), bridge_episode(6, 2)]
    encoded = [example(episode) for episode in episodes]
    write_shards(tmp_path / "bridge_dataset" / "1.0.0", "bridge_dataset", [encoded[:2], encoded[2:]])
    source = RldsSource.open(tmp_path / "bridge_dataset", cameras={"main": "image_0", "wrist": "image_3"})
    done = convert(source, tmp_path / "out")
    assert (done.episodes, done.skipped) == (3, {})
    dataset = open_dataset(tmp_path / "out")
    assert dataset.fps == 5 and dataset.info.robot_type == "widowx"
    assert dataset.info.features["action"].names[-1] == "gripper"
    for number, episode in enumerate(episodes):
        np.testing.assert_array_equal(rows(dataset, number, "action"), episode["steps/action"][1:])
        np.testing.assert_array_equal(rows(dataset, number, "observation.state"), episode[f"{OBSERVATION}state"][1:])
    assert [dataset.tasks[i] for i in dataset.columns["task_index"]] == (
        ["put the carrot on the plate"] * 4 + ["open the drawer"] * 3 + ["put the carrot on the plate"] * 5
    )
    for name, shape, shift in (("main", (32, 48), 0), ("wrist", (24, 24), 3)):
        expected = np.concatenate([smooth_pictures(n, *shape, seed + shift)[1:] for seed, n in enumerate((5, 4, 6))])
        assert np.abs(pictures(dataset, name) - expected).max() <= 8
    record = json.loads((tmp_path / "out" / "meta" / "conversion.json").read_text())
    assert "1 open" in record["conventions"]["gripper"] and record["skipped"] == {}


def naive_absolute(changes: list[float]) -> list[float]:
    """Step by step: the last command holds; before the first one, its opposite."""
    signs = [-1 if c > 0.1 else 1 if c < -0.1 else 0 for c in changes]
    first = next((s for s in signs if s), 0)
    state = -first if first else 1
    out = []
    for sign in signs:
        state = sign or state
        out.append((state + 1) / 2)
    return out


CHANGES = [[0, 0, 1, 0, 0, -1, 0], [0, -1, 0, 0.05, 1], [0, 0, 0, 0], [1, 0, 0, -1]]


@pytest.mark.parametrize("changes", CHANGES)
def test_the_relative_gripper_becomes_absolute(changes: list[float]) -> None:
    assert absolute_gripper(np.array(changes, np.float32)).tolist() == naive_absolute(changes)


def test_fractal_comes_back(tmp_path: Path) -> None:
    episodes = [fractal_episode(changes, seed) for seed, changes in enumerate(CHANGES)]
    write_shards(tmp_path / "src", "fractal20220817_data", [[example(episode) for episode in episodes]])
    assert convert(RldsSource.open(tmp_path / "src"), tmp_path / "out", processes=2).episodes == 4
    dataset = open_dataset(tmp_path / "out")
    for number, (episode, changes) in enumerate(zip(episodes, CHANGES, strict=True)):
        action, state = rows(dataset, number, "action"), rows(dataset, number, "observation.state")
        np.testing.assert_array_equal(action[:, :3], episode["steps/action/world_vector"])
        np.testing.assert_array_equal(action[:, 3:6], episode["steps/action/rotation_delta"])
        assert action[:, 6].tolist() == naive_absolute(changes)
        np.testing.assert_array_equal(state[:, :7], episode[f"{OBSERVATION}base_pose_tool_reached"])
        np.testing.assert_array_equal(state[:, 7], episode[f"{OBSERVATION}gripper_closed"])


def test_what_cannot_be_read_is_listed_and_the_rest_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uneven = bridge_episode(5, 2)
    uneven[f"{OBSERVATION}image_0"] = uneven[f"{OBSERVATION}image_0"][:-1]
    broken = bridge_episode(5, 3)
    broken[f"{OBSERVATION}image_0"][2] = broken[f"{OBSERVATION}image_0"][2][:60]
    infinite = bridge_episode(5, 4)
    infinite["steps/action"][3, 1] = np.nan
    absent = {**bridge_episode(5, 5), "episode_metadata/has_image_0": np.array([0])}
    no_state = bridge_episode(5, 6)
    del no_state[f"{OBSERVATION}state"]
    first = [bridge_episode(5, 0), bridge_episode(5, 1, ""), uneven, broken, infinite, absent, no_state]
    shards = [[example(e) for e in first], [example(bridge_episode(4, n)) for n in (7, 8, 9)], [b"\xff" * 40], []]
    paths = write_shards(tmp_path / "src", "bridge_orig", shards)
    paths[1].write_bytes(paths[1].read_bytes()[:-10])
    paths[3].unlink()
    assert main(["convert", "rlds", str(tmp_path / "src"), "--out", str(tmp_path / "out")]) == 1
    assert len(open_dataset(tmp_path / "out").episodes) == 3
    skipped = json.loads((tmp_path / "out" / "meta" / "conversion.json").read_text())["skipped"]
    name = "bridge_orig-train.tfrecord-0000{}-of-00004"
    expected = {
        f"{name.format(0)}, record 1": "it has no instruction",
        f"{name.format(0)}, record 2": "every feature needs the same number of frames",
        f"{name.format(0)}, record 3": "image_0 of step 2 cannot be decoded",
        f"{name.format(0)}, record 4": "action is not finite",
        f"{name.format(0)}, record 5": "the camera image_0 is missing",
        f"{name.format(0)}, record 6": "it has no numbers steps/observation/state",
        f"{name.format(1)}, from record 2": "is truncated in record 2",
        f"{name.format(2)}, record 0": "the record is no tf.train.Example",
        f"{name.format(3)}, from record 0": "this shard is missing",
    }
    assert skipped.keys() == expected.keys()
    assert all(expected[place] in reason for place, reason in skipped.items())
    printed = capsys.readouterr().out
    assert "3 episodes written" in printed and "9 skipped" in printed and "it has no instruction" in printed


def test_an_interrupted_conversion_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path / "src", "bridge_orig", [[example(bridge_episode(4, n)) for n in range(3)]])
    source = RldsSource.open(tmp_path / "src")
    convert(source, tmp_path / "undisturbed")
    read, calls = RldsSource.read, []

    def counted(self: RldsSource, place: Any) -> Any:
        calls.append(place.number)
        if len(calls) == 4:  # the first call looks at the features
            raise KeyboardInterrupt
        return read(self, place)

    monkeypatch.setattr(RldsSource, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    calls.append(-1)
    assert convert(source, tmp_path / "out").episodes == 3
    assert calls[calls.index(-1) + 1 :] == [0, 2]
    for file in ("data/chunk-000/file-000.parquet", "meta/stats.json", "meta/info.json", "meta/conversion.json"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "undisturbed" / file).read_bytes()
    with pytest.raises(UserError, match="already here"):
        convert(source, tmp_path / "out")


def test_another_source_does_not_go_on_with_what_is_staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write_shards(tmp_path / name, "bridge_orig", [[example(bridge_episode(4, 0))]])
    monkeypatch.setattr("fathom.data.convert.conversion.stage_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(RldsSource.open(tmp_path / "a"), tmp_path / "out")
    with pytest.raises(UserError, match="converted from something else"):
        convert(RldsSource.open(tmp_path / "b"), tmp_path / "out")


def interrupted(*arguments: Any) -> None:
    raise KeyboardInterrupt


def full_disk(*arguments: Any) -> None:
    raise UserError("the disk is full") from OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_ends_the_conversion_rather_than_skipping_all_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path / "src", "bridge_orig", [[example(bridge_episode(4, n)) for n in range(2)]])
    source = RldsSource.open(tmp_path / "src")
    with monkeypatch.context() as patched:
        patched.setattr("fathom.data.convert.conversion.stage_one", full_disk)
        with pytest.raises(UserError, match="the disk is full"):
            convert(source, tmp_path / "out")
    assert convert(source, tmp_path / "out").episodes == 2


def test_bad_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [example(bridge_episode(4, 0))]
    write_shards(tmp_path / "unknown", "kuka", [good])
    write_shards(tmp_path / "good", "bridge_orig", [good])
    write_shards(tmp_path / "versions" / "1.0.0", "bridge_orig", [good])
    write_shards(tmp_path / "versions" / "2.0.0", "bridge_orig", [good])
    write_shards(tmp_path / "broken", "bridge_orig", [[b"\xff" * 40]])
    (tmp_path / "empty").mkdir()
    out = ["--out", str(tmp_path / "out")]
    for arguments, sentence in (
        (["nowhere"], "there is no such folder"),
        (["empty"], "dataset_info.json is missing"),
        (["unknown"], "no map knows the dataset 'kuka'"),
        (["versions"], "several versions (1.0.0, 2.0.0)"),
        (["good", "--split", "val"], "no shards of the split 'val'; there is: train"),
        (["good", "--map", "droid"], "no RLDS map 'droid'"),
        (["good", "--cameras", "main"], "give CAMERA=NAME"),
        (["good", "--cameras", "wrist=image_3"], "one must be main"),
        (["broken"], "no episode can be converted"),
    ):
        assert main(["convert", "rlds", str(tmp_path / arguments[0]), *arguments[1:], *out]) == 2, arguments
        error = capsys.readouterr().err
        assert sentence in error and "Traceback" not in error
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.staging").exists()
