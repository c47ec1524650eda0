"""Evaluating a policy in closed loop: one folder per evaluation, which an interruption leaves ready to go on."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from fathom.data.video import Encoding, encode_video
from fathom.errors import UserError
from fathom.evaluation.protocol import Protocol
from fathom.evaluation.results import EpisodeResult, Result, success_table, versions
from fathom.files import write_file
from fathom.progress import progress_bar
from fathom.simulation import find_suite
from fathom.simulation.journal import Journal
from fathom.simulation.rollout import Actor, Outcome, ScriptedPolicy, rollout
from fathom.simulation.vector import Environments
from fathom.weights import fingerprint

# every browser plays it; half the colour resolution is no loss to the eye
_CLIP = Encoding("libx264", "h264", "rgb24", "yuv420p", {"g": "40", "crf": "20", "preset": "veryfast"})


def evaluate(
    policy: Actor | ScriptedPolicy,
    protocol: Protocol,
    folder: str | Path,
    *,
    name: str,
    environments: int = 8,
    processes: int | None = None,
    sim_python: str | Path | None = None,
    clips_per_task: int = 1,
    device: torch.device | str = "cpu",
    console: Console | None = None,
) -> Result:
    """Try every episode of a protocol and write ``folder/results.json``; call it again to go on after an interruption.

    ``folder/episodes.jsonl`` grows as episodes end; ``folder/clips/<task>-<init_state>.mp4`` shows the first
    ``clips_per_task`` of each task. An episode whose simulator crashes is tried once more; one that breaks off again
    counts as a failure and keeps the reason.

    Args:
        name: of the policy, in the result file and tables.
        environments: how many episodes run side by side, i.e. the policy's batch size.
        processes: that run them; default one per core.
        sim_python: an interpreter that has the simulator, where this one has not.

    Raises:
        UserError: the folder holds another evaluation, the policy does not fit the suite or the protocol, no
            simulator, nothing to draw with, or a full disk.
    """
    cameras = _cameras(policy, protocol)
    options = protocol.environment() | ({"cameras": cameras} if cameras else {})
    folder = Path(folder)
    console = console or Console()
    plan = protocol.plan()
    weights = fingerprint(policy) if isinstance(policy, nn.Module) else None
    with (
        progress_bar(console) as progress,
        Environments(protocol.suite, min(environments, len(plan)), options, processes, sim_python) as envs,
    ):
        simulator = envs.versions()  # nothing is written before it is known that there is one
        about = {"policy": name, "weights": weights, "protocol": protocol.to_json(), "simulator": simulator}
        journal = Journal(folder / "episodes.jsonl", about)
        results = [EpisodeResult.from_json(entry) for entry in journal.entries]
        done = {(result.task, result.init_state): result for result in results}
        waiting = [episode for episode in plan if (episode.task, episode.index) not in done]
        bar = progress.add_task(f"evaluating {name}", total=len(plan), note="")
        outcomes = rollout(
            policy,
            waiting,
            envs,
            execute=protocol.execute,
            seed=protocol.noise_seed,
            device=device,
            film=lambda episode: episode.index < clips_per_task,
        )
        for outcome in outcomes:
            _write_clip(folder, outcome, find_suite(protocol.suite).robot.fps)
            result = done[outcome.episode.task, outcome.episode.index] = _result(outcome)
            journal.append(asdict(result))
            progress.update(bar, completed=len(done), note=_solved(done.values()))
    episodes = tuple(done[episode.task, episode.index] for episode in plan)
    summed = Result(name, protocol.suite, protocol.to_json(), versions() | simulator, episodes, weights, cameras)
    summed.save(folder / "results.json")
    _tell(summed, console)
    return summed


def _cameras(policy: Actor | ScriptedPolicy, protocol: Protocol) -> tuple[str, ...]:
    """The views that the policy wants to see; none if it does not look.

    Raises:
        UserError: it cannot act under this protocol.
    """
    if isinstance(policy, ScriptedPolicy):
        return ()
    horizon, robot = policy.noise_shape[0], find_suite(protocol.suite).robot
    if protocol.execute > horizon:
        raise UserError(f"cannot carry out {protocol.execute} actions of a chunk of {horizon}: execute fewer.")
    if policy.action_width != len(robot.action_names):
        raise UserError(
            f"the policy's actions have {policy.action_width} components, those of {protocol.suite} have "
            f"{len(robot.action_names)}: it was trained for another robot."
        )
    if missing := [camera for camera in policy.cameras if camera not in robot.cameras]:
        raise UserError(
            f"the policy looks through a camera {missing[0]!r}, which {protocol.suite} does not have "
            f"(it has {', '.join(robot.cameras)}): evaluate one that was trained on these."
        )
    return tuple(policy.cameras)


def _tell(result: Result, console: Console) -> None:
    """The table of successes, and how many episodes broke off."""
    console.print(success_table([result]))
    broken = [episode for episode in result.episodes if episode.error]
    if broken:
        told = (broken[0].error or "").strip().splitlines()[-1]
        console.print(f"{len(broken)} episodes broke off, the first in {broken[0].task} with: {told}")


def _result(outcome: Outcome) -> EpisodeResult:
    episode, wall_s = outcome.episode, round(outcome.wall_s, 3)
    return EpisodeResult(
        episode.task, episode.seed, episode.index, outcome.success, outcome.steps, wall_s, outcome.error
    )


def _write_clip(folder: Path, outcome: Outcome, fps: int) -> None:
    if not outcome.frames:
        return
    frames = np.stack(outcome.frames)
    even = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]  # as the colour format wants it
    name = f"{outcome.episode.task}-{outcome.episode.index:02d}.mp4"
    write_file(folder / "clips" / name, encode_video(even, fps, _CLIP))


def _solved(results: Iterable[EpisodeResult]) -> str:
    return f"{sum(result.success for result in results)} solved"
