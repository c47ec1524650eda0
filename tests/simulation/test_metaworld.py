"""Meta-World environments: reproducible, honest about what a robot sees, and solvable."""

import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from fathom.errors import UserError
from fathom.simulation import SUITES, make_env
from fathom.simulation.metaworld.environment import MetaWorldEnv
from fathom.simulation.metaworld.expert import ScriptedExpert
from fathom.simulation.noise import ExpertNoise

TASKS = SUITES["metaworld"].instructions


def expert_episode(env: MetaWorldEnv, seed: int) -> tuple[bool, int, np.ndarray]:
    """(success, actions, the true state at the end)."""
    env.restart(seed)
    expert = ScriptedExpert(env)
    step, success = 0, False
    for step in range(1, env.max_steps + 1):  # noqa: B007
        _, success, truncated = env.advance(expert())
        if success or truncated:
            break
    return success, step, env.privileged().copy()


def test_every_task_has_a_sentence_of_its_own() -> None:
    assert {f"{task}-v3" for task in TASKS} == set(ALL_V3_ENVIRONMENTS)
    assert len(set(TASKS.values())) == len(TASKS) == 50


@pytest.mark.parametrize("task", ["faucet-open", "reach", "door-open"])
def test_the_scripted_expert_solves_it(task: str) -> None:
    env = make_env("metaworld", task)
    assert all(expert_episode(env, seed)[0] for seed in (0, 1))


def test_observations_fit_their_space_and_names() -> None:
    env = make_env("metaworld", "faucet-open", depth=True, segmentation=True, image_size=64)
    observed, info = env.reset(seed=0)
    assert env.observation_space.contains(observed)
    assert info == {"success": False, "instruction": TASKS["faucet-open"]}
    seen = {env.segmentation_names[label] for label in np.unique(observed["segmentation"]["main"])}
    assert {"gripper", "table", "faucetBase"} <= seen
    observed, _, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(observed) and not terminated and not truncated and not info["success"]
    env.close()


def test_a_seed_fixes_the_episode_whatever_ran_before() -> None:
    env = make_env("metaworld", "faucet-open")
    first = expert_episode(env, 5)
    other = expert_episode(env, 6)
    again = expert_episode(env, 5)
    fresh = expert_episode(make_env("metaworld", "faucet-open", seed=77), 5)
    for run in (again, fresh):
        assert run[:2] == first[:2]
        np.testing.assert_array_equal(run[2], first[2])
    assert not np.allclose(first[2][4:7], other[2][4:7])


def test_a_seed_fixes_the_picture() -> None:
    env = make_env("metaworld", "drawer-open", image_size=64)
    pictures = [env.reset(seed=seed)[0]["images"]["main"] for seed in (1, 2, 1)]
    np.testing.assert_array_equal(pictures[0], pictures[2])
    assert (pictures[0] != pictures[1]).mean() > 0.01
    env.close()


def test_the_state_tells_nothing_of_goals_and_objects() -> None:
    env = make_env("metaworld", "reach")
    states, truths = [], []
    for seed in range(4):
        env.restart(seed)
        states.append(env.state())
        truths.append(env.privileged().copy())
    assert states[0].shape == (4,) and states[0].dtype == np.float32
    for state, truth in zip(states[1:], truths[1:], strict=True):
        np.testing.assert_array_equal(state, states[0])  # layouts differ, the robot does not
        assert not np.allclose(truth[-3:], truths[0][-3:])


def test_the_first_picture_shows_the_layout_that_follows() -> None:
    """Meta-World itself returns a first observation from before it moved the objects."""
    env = make_env("metaworld", "faucet-open")
    for seed in range(3):
        env.restart(seed)
        seen = env.privileged()[4:7].copy()
        env.advance(np.zeros(4))
        np.testing.assert_allclose(env.privileged()[4:7], seen, atol=5e-3)


def test_only_the_sentence_tells_opening_from_closing_the_faucet() -> None:
    opening, closing = (make_env("metaworld", task, image_size=64) for task in ("faucet-open", "faucet-close"))
    closing._world._random_reset_space = opening._world._random_reset_space  # Meta-World spreads the two differently
    seen = [env.reset(seed=3)[0] for env in (opening, closing)]
    np.testing.assert_array_equal(seen[0]["images"]["main"], seen[1]["images"]["main"])
    np.testing.assert_array_equal(seen[0]["state"], seen[1]["state"])
    assert opening.instruction != closing.instruction
    opening.close(), closing.close()


def test_a_chunk_equals_its_actions_one_by_one_and_looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 4)).astype(np.float32)
    env = make_env("metaworld", "push", image_size=64)
    env.reset(seed=2)
    rewards = 0.0
    for action in actions:
        single, reward, *_ = env.step(action)
        rewards += reward
    env.reset(seed=2)
    looks = []
    look = env.observe
    monkeypatch.setattr(env, "observe", lambda: looks.append(1) or look())
    chunk, reward, _, _, info = env.step_chunk(actions)
    assert len(looks) == 1 and info["steps"] == 6
    assert reward == pytest.approx(rewards)
    np.testing.assert_array_equal(chunk["images"]["main"], single["images"]["main"])
    np.testing.assert_array_equal(chunk["state"], single["state"])
    env.close()


def test_a_chunk_stops_at_success() -> None:
    env = make_env("metaworld", "handle-press", image_size=64)
    _, steps, _ = expert_episode(env, 0)
    expert = ScriptedExpert(env)
    env.restart(0)
    for _ in range(steps - 1):
        env.advance(expert())
    last = expert()
    _, _, terminated, _, info = env.step_chunk(np.stack([last] * 5))
    assert terminated and info["success"] and info["steps"] == 1
    env.close()


@pytest.mark.parametrize(("repeat", "limit"), [(2, 250), (1, 500), (3, 167)])
def test_an_episode_ends_after_500_simulator_steps(repeat: int, limit: int) -> None:
    env = make_env("metaworld", "reach", action_repeat=repeat)
    env.restart(0)
    ends = [env.advance(np.zeros(4))[2] for _ in range(limit)]
    assert env.max_steps == limit and ends.index(True) == limit - 1


@pytest.mark.parametrize("action", [np.zeros(3), np.array([0.0, np.nan, 0.0, 0.0])])
def test_a_bad_action_is_refused(action: np.ndarray) -> None:
    env = make_env("metaworld", "reach")
    env.restart(0)
    with pytest.raises(ValueError, match="4 finite numbers"):
        env.advance(action)


def test_unknown_names_are_told_with_near_ones() -> None:
    with pytest.raises(UserError, match=r"no suite called 'metaverse'.*metaworld"):
        make_env("metaverse", "reach")
    with pytest.raises(UserError, match=r"no task called 'faucet-opn'.*faucet-open"):
        make_env("metaworld", "faucet-opn")


def test_noise_disturbs_the_asked_share_in_runs_and_leaves_the_gripper() -> None:
    offsets = ExpertNoise(std=0.4, share=0.5, hold=4).offsets(20_000, 4, np.random.default_rng(0))
    noisy = np.any(offsets != 0, axis=1)
    assert offsets.shape == (20_000, 4) and not offsets[:, 3].any()
    assert noisy.mean() == pytest.approx(0.5, abs=0.03)
    assert offsets[noisy, :3].std() == pytest.approx(0.4, abs=0.02)
    repeats = (offsets[1:] == offsets[:-1]).all(axis=1) & noisy[1:]
    assert repeats.sum() / noisy.sum() == pytest.approx(0.6, abs=0.03)  # runs of 1..4: 1.5 of 2.5 continue one


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_all_tasks_can_be_seen_and_their_experts_mostly_succeed(task: str) -> None:
    env = make_env("metaworld", task, depth=True, segmentation=True)
    observed, _ = env.reset(seed=0)
    assert env.observation_space.contains(observed)
    assert len(np.unique(observed["segmentation"]["main"])) >= 4
    assert sum(expert_episode(env, seed)[0] for seed in range(3)) >= 2
    env.close()
