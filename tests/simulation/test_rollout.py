"""Closed-loop roll-outs: reproducible, lean, and fair to every policy."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.data.batch import Observation
from fathom.errors import UserError
from fathom.simulation import make_env, vector
from fathom.simulation.rollout import Episode, Outcome, RandomPolicy, ScriptedPolicy, chunk_noise, rollout
from fathom.simulation.vector import Environments
from fathom.workers import Call, Workers

EPISODES = [Episode(task, 10_000 + i, i) for task in ("handle-press", "reach") for i in range(2)]
SMALL = {"image_size": 32, "action_repeat": 4}


class Fumbler:
    """Acts by noise, state and picture, so that any mix-up between episodes shows; counts its calls."""

    noise_shape = (12, 4)
    action_width = 4
    cameras = ("main",)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def sample_actions(self, observation: Observation, noise: torch.Tensor | None = None) -> torch.Tensor:
        assert noise is not None
        self.batches.append(len(observation))
        image = observation.images["main"]
        assert image.shape == (len(observation), 3, 32, 32) and image.dtype == torch.uint8
        seen = image[:, :, ::4, ::4].double().mean((1, 2, 3)) / 255 + observation.state.double().sum(1)
        return (0.5 * noise + torch.sin(50 * seen)[:, None, None].float()).clip(-1, 1)


def play(policy: Any, count: int, **options: Any) -> dict[tuple[str, int], Outcome]:
    with Environments("metaworld", count, SMALL, processes=options.pop("processes", 2)) as environments:
        outcomes = list(rollout(policy, EPISODES, environments, **options))
    return {(outcome.episode.task, outcome.episode.index): outcome for outcome in outcomes}


@pytest.mark.slow
def test_outcomes_do_not_depend_on_the_number_of_environments() -> None:
    def film(episode: Episode) -> bool:
        return episode.index == 1

    alone, together = (play(Fumbler(), count, film=film, execute=10, processes=count - 1 or 1) for count in (1, 3))
    assert set(alone) == set(together) and len(alone) == 4
    for key, one in alone.items():
        other = together[key]
        assert (one.success, one.steps, one.error) == (other.success, other.steps, other.error)
        assert len(one.frames) == len(other.frames) == (one.steps + 1 if key[1] == 1 else 0)
        assert all((a == b).all() for a, b in zip(one.frames, other.frames, strict=True))


def test_another_seed_draws_other_noise_for_every_episode_and_chunk() -> None:
    keys = [(seed, Episode(task, 0, i), chunk) for seed in (0, 1) for task in "ab" for i in (0, 1) for chunk in (0, 1)]
    draws = [chunk_noise((2, 3), *key) for key in keys]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == len(draws)
    torch.testing.assert_close(chunk_noise((2, 3), *keys[5]), draws[5])


def test_the_scripted_expert_goes_through_the_same_loop() -> None:
    outcomes = play(ScriptedPolicy(), 2, processes=1)
    assert all(outcome.success and 0 < outcome.steps < 125 for outcome in outcomes.values())


def test_the_random_policy_is_uniform_and_needs_no_pictures() -> None:
    noise = torch.randn(1000, 4, 4, generator=torch.Generator().manual_seed(0))
    actions = RandomPolicy(4).sample_actions(Observation({}, torch.zeros(1000, 4), [""] * 1000), noise)
    assert actions.abs().max() <= 1
    assert actions.std() == pytest.approx(3**-0.5, rel=0.02)


def test_a_policy_that_does_not_look_can_be_filmed() -> None:
    outcomes = play(RandomPolicy(4), 2, film=lambda episode: episode.index == 1, execute=16, processes=1)
    assert {key: len(outcome.frames) for key, outcome in outcomes.items()} == {
        key: outcome.steps + 1 if key[1] == 1 else 0 for key, outcome in outcomes.items()
    }


def test_an_episode_that_breaks_off_keeps_its_error_and_the_others_go_on() -> None:
    class SometimesNan(Fumbler):
        def sample_actions(self, observation: Observation, noise: torch.Tensor | None = None) -> torch.Tensor:
            actions = super().sample_actions(observation, noise)
            actions[["handle" in sentence for sentence in observation.instruction]] = float("nan")
            return actions

    outcomes = play(SometimesNan(), 2, execute=10)
    for (task, _), outcome in outcomes.items():
        if task == "handle-press":
            assert not outcome.success and "not finite" in (outcome.error or "")
        else:
            assert outcome.error is None and outcome.steps > 0


def test_workers_load_no_torch_and_tell_their_errors() -> None:
    with Workers(1) as workers:
        workers.send(0, Call("start", vector._start, (0, "metaworld", "reach", SMALL, 0, None, True, False)))
        workers.send(0, Call("modules", eval, ("set(__import__('sys').modules)",)))
        workers.send(0, Call("fail", eval, ("1 / 0",)))
        started, modules, failed = (workers.receive()[1] for _ in range(3))
        assert started.value.images["main"].shape == (32, 32, 3)
        assert "mujoco" in modules.value and "torch" not in modules.value
        assert failed.value is None and "ZeroDivisionError" in (failed.error or "")
        workers.send(0, Call("die", os._exit, (3,)))
        with pytest.raises(RuntimeError, match="exit code 3"):
            workers.receive()


def test_a_users_mistake_in_a_worker_is_raised_here() -> None:
    with Workers(1) as workers, pytest.raises(UserError, match="no task called"):
        workers.send(0, Call("env", make_env, ("metaworld", "fly")))
        workers.receive()


@pytest.mark.parametrize("way", ["death", "exception"])
@pytest.mark.parametrize(("crashes", "failed"), [(1, False), (2, True)])
def test_an_episode_whose_simulator_crashes_is_tried_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, crashes: int, failed: bool
) -> None:
    monkeypatch.setenv("FATHOM_TEST_CRASHES", str(tmp_path / "left"))
    (tmp_path / "left").write_text(f"{way} {crashes}")
    monkeypatch.setattr(vector, "_start", noting_the_seed)
    monkeypatch.setattr(vector, "_act", crash_in_reach_1)
    outcomes = play(RandomPolicy(4), 4, processes=1, execute=16)
    assert len(outcomes) == 4
    for key, outcome in outcomes.items():
        broken = key == ("reach", 1) and failed
        assert (outcome.error is not None) == broken, key
        assert broken or outcome.success or outcome.steps == 125
    if failed:
        told = "exit code 9" if way == "death" else "the arm fell off"
        assert told in (outcomes["reach", 1].error or "")


# These stand in the workers for what they wrap.
start, act = vector._start, vector._act
seeds: dict[int, tuple[str, int]] = {}


def noting_the_seed(slot: int, suite: str, task: str, options: Any, seed: int, *rest: Any) -> Any:
    seeds[slot] = task, seed
    return start(slot, suite, task, options, seed, *rest)


def crash_in_reach_1(slot: int, actions: Any, look: bool, film: bool) -> Any:
    """Acts in a worker, or lets the simulator crash while the file says that there are crashes left."""
    left = Path(os.environ["FATHOM_TEST_CRASHES"])
    way, crashes = left.read_text().split()
    env: Any = vector._slots.get(slot)
    if env is None or seeds[slot] != ("reach", 10_001) or int(crashes) == 0:
        return act(slot, actions, look, film)
    left.write_text(f"{way} {int(crashes) - 1}")
    if way == "death":
        os._exit(9)
    env.advance = fall
    return act(slot, actions, look, film)


def fall(action: Any) -> Any:
    raise RuntimeError("the arm fell off")
