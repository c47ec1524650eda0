"""Evaluating a policy in closed loop: one folder per evaluation, which an interruption leaves ready to go on."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fathom.data.files import write_file, write_json
from fathom.data.video import Encoding, encode_video
from fathom.errors import UserError
from fathom.evaluation.protocol import Protocol
from fathom.evaluation.results import EpisodeResult, Result, success_table, versions
from fathom.simulation.metaworld_tasks import SIMULATOR_HZ
from fathom.simulation.rollout import Actor, Episode, Outcome, ScriptedPolicy, rollout
from fathom.simulation.vector import Environments

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
    clips_per_task: int = 1,
    device: torch.device | str = "cpu",
    console: Console | None = None,
) -> Result:
    """Try every episode of a protocol and write ``folder/results.json``; call it again to go on after an interruption.

    ``folder/episodes.jsonl`` grows as episodes end; ``folder/clips/<task>-<init_state>.mp4`` shows the first
    ``clips_per_task`` of each task. An episode that breaks off counts as a failure and keeps its traceback.

    Args:
        name: of the policy, in the result file and tables.
        environments: how many episodes run side by side, i.e. the policy's batch size.
        processes: that run them; default one per core.

    Raises:
        UserError: the folder holds another evaluation, no simulator, no OpenGL, or a full disk.
    """
    folder = Path(folder)
    console = console or Console()
    plan = protocol.plan()
    log = _Log(folder, {"policy": name, "protocol": protocol.to_json()})
    waiting = [episode for episode in plan if _key(episode) not in log.done]
    if waiting:
        with (
            _progress(console) as progress,
            Environments(protocol.suite, min(environments, len(waiting)), protocol.environment(), processes) as envs,
        ):
            bar = progress.add_task(f"evaluating {name}", total=len(plan), completed=len(log.done), rate=_rate(log))
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
                _write_clip(folder, outcome, SIMULATOR_HZ // protocol.action_repeat)
                log.note(outcome)
                progress.update(bar, completed=len(log.done), rate=_rate(log))
    episodes = tuple(log.done[_key(episode)] for episode in plan)
    result = Result(name, protocol.suite, protocol.to_json(), versions(), episodes)
    result.save(folder / "results.json")
    console.print(success_table([result]))
    broken = [episode for episode in episodes if episode.error]
    if broken:
        told = (broken[0].error or "").strip().splitlines()[-1]
        console.print(f"{len(broken)} episodes broke off, the first in {broken[0].task} with: {told}")
    return result


class _Log:
    """``episodes.jsonl``: what has been tried, by task and number."""

    def __init__(self, folder: Path, head: dict[str, object]) -> None:
        """Open the folder, or take up the evaluation that is there.

        Raises:
            UserError: it is another policy's or protocol's.
        """
        head_path, self._path = folder / "evaluation.json", folder / "episodes.jsonl"
        if not head_path.exists():
            write_json(head_path, head)
        elif json.loads(head_path.read_text()) != head:
            raise UserError(f"{folder}: holds the evaluation of another policy or protocol; choose another folder.")
        lines = self._path.read_text().splitlines(keepends=True) if self._path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # an interruption may have cut the last one
        write_file(self._path, "".join(whole).encode())
        results = [EpisodeResult.from_json(json.loads(line)) for line in whole]
        self.done = {(result.task, result.init_state): result for result in results}

    def note(self, outcome: Outcome) -> None:
        episode = outcome.episode
        result = EpisodeResult(
            episode.task,
            episode.seed,
            episode.index,
            outcome.success,
            outcome.steps,
            round(outcome.wall_s, 3),
            outcome.error,
        )
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.done[_key(episode)] = result


def _key(episode: Episode) -> tuple[str, int]:
    return episode.task, episode.index


def _write_clip(folder: Path, outcome: Outcome, fps: int) -> None:
    if not outcome.frames:
        return
    frames = np.stack(outcome.frames)
    even = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]  # as the colour format wants it
    name = f"{outcome.episode.task}-{outcome.episode.index:02d}.mp4"
    write_file(folder / "clips" / name, encode_video(even, fps, _CLIP))


def _rate(log: _Log) -> str:
    solved = sum(result.success for result in log.done.values())
    return f"{solved} solved"


def _progress(console: Console) -> Progress:
    counts = (MofNCompleteColumn(), TextColumn("episodes, {task.fields[rate]}"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), BarColumn(), *counts, *times, console=console)
