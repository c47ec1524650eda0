"""LIBERO and robomimic files, made here as they are published, become LeRobot datasets that hold the same."""

import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tests.data.convert.records import smooth_pictures
from tests.data.convert.test_rlds import pictures, rows

from fathom.cli.main import main
from fathom.data.convert.conversion import convert
from fathom.data.convert.hdf5 import Hdf5Source, axis_angle, metres
from fathom.data.dataset import open_dataset
from fathom.errors import UserError

Demo = dict[str, Any]
PROBLEM = {"problem_name": "tabletop", "language_instruction": "pick up the bowl"}


def libero_demo(length: int, seed: int, depth: bool = False) -> Demo:
    """Published LIBERO files: float64 numbers, pictures upside down; depth only where a user rendered it."""
    random = np.random.default_rng(seed)
    position, orientation = random.normal(size=(length, 3)), random.normal(size=(length, 3))
    demo = {
        "actions": random.uniform(-1, 1, size=(length, 7)),
        "obs/agentview_rgb": smooth_pictures(length, 32, 32, seed),
        "obs/eye_in_hand_rgb": smooth_pictures(length, 32, 32, seed + 4),
        "obs/ee_pos": position,
        "obs/ee_ori": orientation,
        "obs/ee_states": np.concatenate([position, orientation], axis=1),
        "obs/gripper_states": random.uniform(size=(length, 2)),
        "obs/joint_states": random.normal(size=(length, 7)),
        "dones": np.arange(length) == length - 1,
    }
    if depth:
        demo["obs/agentview_depth"] = 0.5 + np.arange(32 * 32).reshape(32, 32, 1) / 1000 + np.zeros((length, 1, 1, 1))
    return demo


def robomimic_demo(length: int, seed: int) -> Demo:
    random = np.random.default_rng(seed)
    quaternion = random.normal(size=(length, 4))
    return {
        "actions": random.uniform(-1, 1, size=(length, 7)),
        "obs/agentview_image": smooth_pictures(length, 32, 32, seed),
        "obs/robot0_eef_pos": random.normal(size=(length, 3)),
        "obs/robot0_eef_quat": quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True),
        "obs/robot0_gripper_qpos": random.uniform(size=(length, 2)),
    }


def write(path: Path, demos: dict[str, Demo], **attributes: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for name, value in attributes.items():
            data.attrs[name] = json.dumps(value)
        for name, demo in demos.items():
            for key, values in demo.items():
                data.create_dataset(f"{name}/{key}", data=values)
    return path


@pytest.mark.parametrize("depth", [False, True])
def test_libero_comes_back_the_right_way_round(tmp_path: Path, depth: bool) -> None:
    demos = [libero_demo(4 + n, n, depth) for n in range(3)]
    # in the file names sort as demo_0, demo_1, demo_10
    write(tmp_path / "src" / "a_demo.hdf5", {"demo_10": demos[1], "demo_2": demos[0]}, problem_info=PROBLEM)
    other = {**PROBLEM, "language_instruction": list('"open it"')}
    write(tmp_path / "src" / "b_demo.hdf5", {"demo_0": demos[2]}, problem_info=other)
    done = convert(Hdf5Source.open(tmp_path / "src"), tmp_path / "out")
    assert (done.episodes, done.skipped) == (3, {})
    dataset = open_dataset(tmp_path / "out", depth=depth)
    assert dataset.fps == 20
    assert [dataset.tasks[t] for t in dataset.columns["task_index"]] == ["pick up the bowl"] * 9 + ["open it"] * 6
    for number, demo in enumerate(demos):
        state = np.concatenate([demo["obs/ee_pos"], demo["obs/ee_ori"], demo["obs/gripper_states"]], axis=1)
        np.testing.assert_array_equal(rows(dataset, number, "observation.state"), state.astype(np.float32))
        np.testing.assert_array_equal(rows(dataset, number, "action"), demo["actions"].astype(np.float32))
        joints = demo["obs/joint_states"].astype(np.float32)
        np.testing.assert_array_equal(rows(dataset, number, "observation.joints"), joints)
    for name, key in (("main", "agentview_rgb"), ("wrist", "eye_in_hand_rgb")):
        expected = np.concatenate([np.rot90(demo[f"obs/{key}"], 2, axes=(1, 2)) for demo in demos]).astype(int)
        assert np.abs(pictures(dataset, name) - expected).max() <= 8
        assert np.abs(pictures(dataset, name) - expected[:, ::-1, ::-1]).mean() > 20  # the check can fail
    assert ("observation.images.main_depth" in dataset.info.features) == depth
    if depth:
        expected_depth = np.rot90(demos[0]["obs/agentview_depth"][0, ..., 0], 2)
        read = dataset.picture("observation.images.main_depth", 0)[0]
        np.testing.assert_allclose(read, expected_depth, atol=2e-3)


def test_robomimic_comes_back_as_it_is(tmp_path: Path) -> None:
    demo = robomimic_demo(5, 1)
    env_args = {"env_name": "Lift", "env_kwargs": {"control_freq": 10}}
    path = write(tmp_path / "image.hdf5", {"demo_0": demo}, env_args=env_args)
    convert(Hdf5Source.open(path, task="lift the cube"), tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.fps == 10 and dataset.tasks == ["lift the cube"]
    assert np.abs(pictures(dataset, "main") - demo["obs/agentview_image"].astype(int)).max() <= 8
    state = rows(dataset, 0, "observation.state")
    np.testing.assert_array_equal(state[:, :3], demo["obs/robot0_eef_pos"].astype(np.float32))
    np.testing.assert_array_equal(state[:, 6:], demo["obs/robot0_gripper_qpos"].astype(np.float32))
    for turn, (x, y, z, w) in zip(state[:, 3:6], demo["obs/robot0_eef_quat"], strict=True):
        angle = np.linalg.norm(turn)
        half = np.array([*(turn / angle * math.sin(angle / 2)), math.cos(angle / 2)])
        np.testing.assert_allclose(half, [x, y, z, w], atol=1e-6)


def test_axis_angle_of_no_turn_is_zero_and_of_a_quarter_about_z_known() -> None:
    quarter = math.sqrt(0.5)
    turns = axis_angle(np.array([[0, 0, 0, 1.0], [0, 0, quarter, quarter], [0, 0, 0, 1.0000001]]))
    np.testing.assert_allclose(turns, [[0, 0, 0], [0, 0, math.pi / 2], [0, 0, 0]], atol=1e-12)


def test_the_unit_of_depth_is_known_or_refused() -> None:
    np.testing.assert_allclose(metres(np.full((1, 2, 2), 1500, np.uint16)), 1.5)
    np.testing.assert_allclose(metres(np.full((1, 2, 2, 1), 1.5)), 1.5)
    with pytest.raises(UserError, match="these are millimetres"):
        metres(np.full((1, 2, 2), 1500.0))
    with pytest.raises(UserError, match="raw z-buffer"):
        metres(np.linspace(0.95, 0.999, 4).reshape(1, 2, 2))


def test_what_cannot_be_read_is_listed_and_the_rest_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    no_camera, no_wrist, uneven = (libero_demo(5, n) for n in (1, 2, 3))
    del no_camera["obs/agentview_rgb"], no_wrist["obs/eye_in_hand_rgb"]
    uneven["actions"] = uneven["actions"][:-1]
    larger = {**libero_demo(5, 4), "obs/agentview_rgb": smooth_pictures(5, 48, 48, 0)}
    no_obs = {"actions": np.zeros((5, 7)), "states": np.zeros((5, 9))}
    demos = {"demo_0": libero_demo(5, 0), "demo_1": no_camera, "demo_2": no_wrist, "demo_3": uneven}
    demos |= {"demo_4": larger, "demo_5": no_obs, "demo_6": libero_demo(4, 6)}
    write(tmp_path / "src" / "a.hdf5", demos, problem_info=PROBLEM)
    write(tmp_path / "src" / "b.hdf5", {"demo_0": libero_demo(4, 7)})
    cut = write(tmp_path / "src" / "c.hdf5", {"demo_0": libero_demo(4, 8)}, problem_info=PROBLEM)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (tmp_path / "src" / "d.hdf5").write_text("no HDF5 at all")
    assert main(["convert", "libero-hdf5", str(tmp_path / "src"), "--out", str(tmp_path / "out")]) == 1
    assert len(open_dataset(tmp_path / "out").episodes) == 2
    skipped = json.loads((tmp_path / "out" / "meta" / "conversion.json").read_text())["skipped"]
    expected = {
        "a.hdf5, demo_1": "the camera agentview_rgb is missing",
        "a.hdf5, demo_2": "it has no observation.images.wrist, which the first episode has",
        "a.hdf5, demo_3": "every feature needs the same number of frames",
        "a.hdf5, demo_4": "(32, 32, 3) is expected",
        "a.hdf5, demo_5": "it has no obs",
        "b.hdf5, demo_0": "it names no instruction; give one with --task",
        "c.hdf5": "truncated or damaged",
        "d.hdf5": "truncated or damaged",
    }
    assert skipped.keys() == expected.keys()
    assert all(expected[place] in reason for place, reason in skipped.items())
    assert "8 skipped" in capsys.readouterr().out


def test_bad_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    low_dim = {"actions": np.zeros((3, 7)), "obs/object": np.zeros((3, 10))}
    write(tmp_path / "low" / "a.hdf5", {"demo_0": low_dim})
    write(tmp_path / "none" / "a.hdf5", {})
    (tmp_path / "empty").mkdir()
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file.create_dataset("x", data=np.zeros(3))
    for name, sentence in (
        ("nowhere", "there is no HDF5 file here"),
        ("empty", "there is no HDF5 file here"),
        ("other.hdf5", "there is no group 'data'"),
        ("none", "holds no demonstrations"),
        ("low", "obs holds object, but ee_pos (LIBERO) or robot0_eef_pos (robomimic) is expected"),
    ):
        assert main(["convert", "libero-hdf5", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2, name
        error = capsys.readouterr().err
        assert sentence in error and "Traceback" not in error
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.staging").exists()
