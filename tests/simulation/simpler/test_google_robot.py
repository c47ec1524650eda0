"""The Google Robot's adapter on a stand-in for SIMPLER that replays a recording of it."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fathom.errors import UserError
from fathom.simulation.perturbation import Perturbation

pytest.importorskip("cv2")  # SIMPLER's own requirement
from fathom.simulation.simpler.google_robot import GoogleRobotEnv
from fathom.simulation.simpler.suite import SimplerGoogle

GOLDEN = Path(__file__).parents[2] / "golden"
TASK = "google_robot_pick_coke_can"
STEPS = 8


class Replay:
    """Answers as the recorded SIMPLER did, whatever it is told; keeps what it was told."""

    def __init__(self) -> None:
        self.about = json.loads((GOLDEN / "simpler_interface.json").read_text())[TASK]
        self.values = np.load(GOLDEN / "simpler_interface.npz")
        self.told: list[np.ndarray] = []
        self.seeds: list[int] = []
        self.closed = False
        self.success_at = -1

    def reset(self, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        self.seeds.append(seed)
        self.told.clear()
        return self.seen(f"{TASK}/0/before"), self.about["reset_info"]

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        assert np.all(action >= np.float32(self.about["action_low"]))
        assert np.all(action <= np.float32(self.about["action_high"]))
        step = min(len(self.told), STEPS - 1)
        self.told.append(action)
        recorded = self.about["steps"][step]
        info = recorded["info"] | {"success": step == self.success_at}
        return self.seen(f"{TASK}/{step}/after"), recorded["reward"], info["success"], recorded["truncated"], info

    def seen(self, moment: str) -> dict[str, Any]:
        observation: dict[str, Any] = {}
        for key, (shape, kind) in self.about["observation"].items():
            recorded = f"{moment}/{key}"
            value = self.values[recorded] if recorded in self.values else np.full(shape, 2, kind)
            assert value.shape == tuple(shape)
            *path, name = key.split("/")
            place = observation
            for part in path:
                place = place.setdefault(part, {})
            place[name] = value
        return observation

    def get_language_instruction(self) -> str:
        return self.about["instruction"]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> Replay:
    recorded = Replay()
    made = {TASK: recorded}
    monkeypatch.setitem(sys.modules, "simpler_env", SimpleNamespace(make=made.__getitem__))
    return recorded


def test_it_says_what_was_recorded(replay: Replay) -> None:
    env = GoogleRobotEnv(TASK, image_size=64, depth=True)
    assert (env.fps, env.max_steps) == (replay.about["control_freq"], replay.about["max_episode_steps"])
    np.testing.assert_allclose(env.action_space.low[:6], replay.about["action_low"][:6])
    np.testing.assert_allclose(env.action_space.high, replay.about["action_high"])
    observed, info = env.reset(seed=7)
    assert replay.seeds == [7]
    assert info == {"success": False, "instruction": "pick coke can"}
    assert observed in env.observation_space
    assert env.observation_space["images"]["main"].shape == (64, 64, 3)
    assert observed["state"][7] == 0.0  # open


def test_an_episode_is_replayed(replay: Replay) -> None:
    env = GoogleRobotEnv(TASK)
    env.reset(seed=0)
    for step in range(STEPS):
        observed, reward, terminated, truncated, _ = env.step(np.array([0.01, 0, 0, 0.1, 0, 0, 0.0], np.float32))
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert observed["state"][:3].tolist() != [0, 0, 0]
        fingers = replay.values[f"{TASK}/{step}/after/agent/qpos"][-4:-2]
        assert observed["state"][7] == pytest.approx(fingers.mean() / 1.3)
    np.testing.assert_allclose(replay.told[0], [0.01, 0, 0, 0.1, 0, 0, 1.0], atol=1e-7)  # 1 closes


def test_it_is_judged_at_once_or_at_the_end(replay: Replay) -> None:
    replay.success_at = 2
    still = np.array([0, 0, 0, 0, 0, 0, 0.5], np.float32)
    env = GoogleRobotEnv(TASK)
    env.reset(seed=0)
    assert [env.step(still)[2] for _ in range(4)] == [False, False, True, False]
    env = GoogleRobotEnv(TASK, judged="at_the_end")
    env.reset(seed=0)
    outcomes = [env.step(still)[2:4] for _ in range(80)]
    assert outcomes == [(False, False)] * 79 + [(False, True)]


def test_the_end_decides_where_it_is_judged_there(replay: Replay) -> None:
    replay.success_at = STEPS - 1  # the replay stays at its last moment
    env = GoogleRobotEnv(TASK, judged="at_the_end")
    env.reset(seed=0)
    still = np.array([0, 0, 0, 0, 0, 0, 0.5], np.float32)
    assert [env.step(still)[2:4] for _ in range(80)][-1] == (True, True)


def test_what_it_lacks_is_told(replay: Replay) -> None:
    for options in ({"segmentation": True}, {"perturbation": Perturbation("lighting")}):
        with pytest.raises(UserError, match="neither segmentation nor perturbations"):
            GoogleRobotEnv(TASK, **options)
    env = GoogleRobotEnv(TASK)
    with pytest.raises(UserError, match="seeds"):
        env.reset(seed=0, options={"init_state": 3})
    with pytest.raises(UserError, match="expert"):
        SimplerGoogle().expert(env)
    env.close()
    env.close()
    assert replay.closed


def test_a_missing_simpler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"SIMPLER is not installed.*--sim-python"):
        SimplerGoogle().prepare()
