"""Demonstrations from the scripted experts, as a LeRobot dataset.

Which episodes a dataset holds follows from its plan alone: for each task and split, the first seeds that the expert
solves. The number of processes and interruptions change nothing about it.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from fathom.data.features import ACTION, IMAGES, MAIN_DEPTH, STATE, Feature
from fathom.data.writer import DatasetWriter
from fathom.errors import UserError
from fathom.progress import progress_bar
from fathom.simulation import TRAINING_SEED, VALIDATION_SEED, find_suite
from fathom.simulation.cameras import main_view
from fathom.simulation.demonstrations import Demonstration, Style, check_expert, label_names, record
from fathom.simulation.journal import Journal
from fathom.simulation.suite import Robot, Suite
from fathom.workers import Call, Workers

SEEDS_PER_SPLIT = VALIDATION_SEED - TRAINING_SEED
MAIN_SEGMENTATION = f"{IMAGES}main_segmentation"


class TaskYield(NamedTuple):
    """How many layouts of a task were tried, how many were solved and kept, and their frames."""

    tried: int
    kept: int
    frames: int


@dataclass
class Quota:
    """The first ``wanted`` solved seeds of one task and split, from ``first_seed`` on.

    Seed ``first_seed + i`` is staged under the number ``first_number + i``, known before it is known how many succeed.
    """

    task: str
    first_seed: int
    wanted: int
    first_number: int
    tried: int = 0
    under_way: int = 0
    frames: list[int] = field(default_factory=list)  # of each episode kept

    def next_number(self) -> int | None:
        """The next seed's number; None while those kept and under way may be enough.

        So a seed is tried only if it would also be tried one at a time: what is kept does not depend on timing.
        """
        if len(self.frames) + self.under_way >= self.wanted:
            return None
        if self.tried == min(SEEDS_PER_SPLIT, 20 + 5 * self.wanted):
            raise UserError(
                f"the scripted expert of {self.task} solved only {len(self.frames)} of {self.tried} layouts: "
                "leave this task out."
            )
        self.tried += 1
        self.under_way += 1
        return self.first_number + self.tried - 1

    def take(self, frames: int) -> None:
        """One attempt ended, with ``frames`` frames, or 0 where the expert failed."""
        self.under_way -= 1
        if frames:
            self.frames.append(frames)


def collect(
    suite: str,
    tasks: Sequence[str],
    episodes_per_task: int,
    root: str | Path,
    *,
    validation_share: float = 0.1,
    style: Style = Style(),  # noqa: B008 - it is frozen
    segmentation: bool = False,
    processes: int | None = None,
    sim_python: str | Path | None = None,
    console: Console | None = None,
) -> dict[str, TaskYield]:
    """Collect a dataset at ``root``; call it again after an interruption and it goes on.

    Each frame has the pictures of the cameras, metric depth of the camera ``main``, the state, and the action that the
    expert wanted. What was tried and kept is printed and stands in the dataset's ``meta/collection.json``, beside how
    the camera ``main`` sees, if it sees all tasks alike.

    Args:
        tasks: by name; all of the suite's if empty.
        episodes_per_task: successful ones, of both splits together.
        validation_share: of every task's episodes, at least one, which no training split holds.
        segmentation: add an instance segmentation of the camera ``main``.
        processes: default: one per core.
        sim_python: an interpreter that has the simulator, where this one has not.

    Raises:
        UserError: an unknown task, something already at ``root``, episodes half-collected with other arguments, a full
            disk, no scripted expert or one that fails too often, no simulator, or nothing to draw with.
        RuntimeError: a simulator crashed twice over one layout.
    """
    found = find_suite(suite)
    tasks = [found.task(task) for task in tasks] or list(found.instructions)
    validation = max(1, round(episodes_per_task * validation_share))
    if len(set(tasks)) != len(tasks) or validation >= episodes_per_task:
        raise UserError("name each task once, and ask for at least two episodes of each.")
    if style.image_size < 16:
        raise UserError("pictures have at least 16 pixels a side.")
    cameras = found.robot.cameras
    if style.cameras[:1] != ("main",) or len(set(style.cameras)) != len(style.cameras):
        raise UserError("the first camera is main, whose depth is recorded, and each is named once.")
    if missing := set(style.cameras) - set(cameras):
        raise UserError(f"{suite} has the cameras {', '.join(cameras)}, and none called {min(missing)!r}.")
    if sim_python is None:
        found.prepare()
    console = console or Console()
    style = replace(style, noise=style.noise or found.noise)
    quotas = _quotas(tasks, episodes_per_task - validation, validation)
    with Workers(processes or os.cpu_count() or 1, sim_python, revive=True) as workers:
        if segmentation:
            style = replace(style, label_names=_all_label_names(workers, suite, tasks, style))
        _ask(workers, check_expert, suite, tasks, style)
        view = _shared(list(_ask(workers, main_view, suite, tasks, style).values()))
        writer = DatasetWriter(root, dataset_features(found.robot, style), found.robot.fps, found.robot.name)
        plan = {"suite": suite, "tasks": list(tasks), "episodes_per_task": episodes_per_task}
        plan |= {"validation": validation, "style": asdict(style)}
        journal = Journal(writer.staging / "attempts.jsonl", plan)
        with progress_bar(console) as progress:
            bar = progress.add_task("collecting", total=episodes_per_task * len(tasks), note="")
            for _ in _attempts(quotas, journal, workers, found, style, writer):
                done = [frames for quota in quotas for frames in quota.frames]
                progress.update(bar, completed=len(done), note=f"episodes, {sum(done)} frames")
    training = len(tasks) * (episodes_per_task - validation)
    splits = {"train": range(training), "validation": range(training, len(tasks) * episodes_per_task)}
    result = {task: _yield([quota for quota in quotas if quota.task == task]) for task in tasks}
    counts = {task: item._asdict() for task, item in result.items()}
    writer.finish(splits, notes={"collection.json": plan | view | {"yield": counts}})
    console.print(_table(result))
    return result


def dataset_features(robot: Robot, style: Style) -> dict[str, Feature]:
    """The features of a dataset of a robot's demonstrations."""
    size = style.image_size
    wanted = {f"{IMAGES}{camera}": Feature.rgb(size, size) for camera in style.cameras}
    wanted |= {
        MAIN_DEPTH: Feature.depth(size, size),
        STATE: Feature.vector(robot.state_names),
        ACTION: Feature.vector(robot.action_names),
    }
    if style.label_names:
        wanted[MAIN_SEGMENTATION] = Feature.segmentation(size, size, dict(enumerate(style.label_names)))
    return wanted


def _quotas(tasks: Sequence[str], training: int, validation: int) -> list[Quota]:
    """All training episodes before all others: each split is one range of the dataset."""
    splits = ((TRAINING_SEED, training), (VALIDATION_SEED, validation))
    wanted = [(task, seed, n) for seed, n in splits for task in tasks]
    return [Quota(task, seed, n, SEEDS_PER_SPLIT * number) for number, (task, seed, n) in enumerate(wanted)]


def _attempts(
    quotas: list[Quota], journal: Journal, workers: Workers, suite: Suite, style: Style, writer: DatasetWriter
) -> Iterator[None]:
    """Fill the quotas; yields after every attempt that ended."""
    known: dict[int, int] = {entry["number"]: entry["frames"] for entry in journal.entries}
    free = list(range(len(workers)))
    crashed: set[int] = set()
    recorded: deque[tuple[int, Demonstration | None]] = deque()

    def attempt(number: int) -> Call:
        quota = quotas[number // SEEDS_PER_SPLIT]
        seed = quota.first_seed + number - quota.first_number
        return Call(number, record, (suite.name, quota.task, seed, style))

    while True:
        for quota in quotas:
            while free and (number := quota.next_number()) is not None:
                if number in known:
                    quota.take(known[number])
                    yield
                    continue
                workers.send(free.pop(), attempt(number))
        if recorded:  # the workers are busy again: time to write
            number, demonstration = recorded.popleft()
            quota = quotas[number // SEEDS_PER_SPLIT]
            frames = 0
            if demonstration is not None:
                writer.stage_episode(number, _features_of(demonstration), suite.instructions[quota.task])
                frames = len(demonstration.actions)
            quota.take(frames)
            journal.append({"number": number, "frames": frames})
            yield
            continue
        if len(free) == len(workers):
            return
        worker, answer = workers.receive()
        if answer.error is None:
            free.append(worker)
            recorded.append((answer.key, answer.value))
            continue
        if answer.key in crashed:
            raise RuntimeError(f"recording a demonstration failed twice:\n{answer.error}")
        crashed.add(answer.key)
        workers.send(worker, attempt(answer.key))


def _features_of(demonstration: Demonstration) -> dict[str, Any]:
    """By the names that a dataset has for them."""
    features = {f"{IMAGES}{camera}": pictures for camera, pictures in demonstration.images.items()}
    features |= {MAIN_DEPTH: demonstration.depth, STATE: demonstration.state, ACTION: demonstration.actions}
    if demonstration.segmentation is not None:
        features[MAIN_SEGMENTATION] = demonstration.segmentation
    return features


def _all_label_names(workers: Workers, suite: str, tasks: Sequence[str], style: Style) -> tuple[str, ...]:
    """One table of segmentation labels for all tasks: what they share first, then each task's objects."""
    found = _ask(workers, label_names, suite, tasks, style)
    return tuple(dict.fromkeys(name for task in tasks for name in found[task]))


def _shared(views: list[dict[str, float] | None]) -> dict[str, Any]:
    """The camera ``main`` of all tasks; nothing where theirs differ, or one says nothing of it."""
    return {"cameras": {"main": views[0]}} if views[0] and all(view == views[0] for view in views) else {}


def _ask(
    workers: Workers, function: Callable[[str, str, Style], Any], suite: str, tasks: Sequence[str], style: Style
) -> dict[str, Any]:
    """What a function says of each task, by the tasks' names."""
    found: dict[str, Any] = {}
    for answer in workers.map(Call(task, function, (suite, task, style)) for task in tasks):
        if answer.error is not None:
            raise RuntimeError(f"building {answer.key} failed:\n{answer.error}")
        found[answer.key] = answer.value
    return found


def _yield(quotas: list[Quota]) -> TaskYield:
    frames = [frames for quota in quotas for frames in quota.frames]
    return TaskYield(sum(quota.tried for quota in quotas), len(frames), sum(frames))


def _table(result: dict[str, TaskYield]) -> Table:
    table = Table("task", "kept", "tried", "yield", "mean length", title="Demonstrations")
    for task, (tried, kept, frames) in result.items():
        table.add_row(task, str(kept), str(tried), f"{kept / tried:.0%}", f"{frames / kept:.0f} frames")
    return table
