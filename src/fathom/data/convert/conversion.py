"""What every conversion has in common: episodes are staged one by one, and those that cannot be read are listed."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from fathom.data.features import Feature
from fathom.data.staging import Frames
from fathom.data.writer import DatasetWriter
from fathom.errors import UserError
from fathom.files import is_full_disk, write_json
from fathom.progress import progress_bar
from fathom.workers import Call, Workers

RECORD = "conversion.json"
"""In a converted dataset's ``meta/``: where it comes from, what its numbers mean, and what was left out and why."""


@dataclass(frozen=True)
class Place:
    """Where one episode lies.

    Attributes:
        number: under which it is staged; it depends on the names of the source's files alone, never on their content,
            so that a damaged file may be replaced between two runs.
        name: how its owner finds it.
        at: where in ``file``, as the source understands it.
        problem: why nothing can be read here.
    """

    number: int
    name: str
    file: Path
    at: Any = None
    problem: str | None = None


@dataclass(frozen=True)
class Recording:
    """One episode: for each feature all frames (see :class:`~fathom.data.writer.DatasetWriter`), and its task."""

    frames: Frames
    task: str


class Source(Protocol):
    """A dataset of another format; a frozen dataclass, since worker processes get a copy of it."""

    @property
    def root(self) -> Path:
        """The folder or file that is read."""

    @property
    def fps(self) -> int:
        """Frames per second."""

    @property
    def robot_type(self) -> str:
        """As LeRobot notes it."""

    @property
    def conventions(self) -> Mapping[str, str]:
        """In words, what is stored: pictures, state, action, gripper."""

    def places(self) -> list[Place]:
        """All episodes, in order."""

    def read(self, place: Place) -> Recording:
        """One episode; a UserError says why it cannot be read."""

    def features(self, recording: Recording) -> dict[str, Feature]:
        """What the dataset holds, judged by one of its episodes."""


@dataclass(frozen=True)
class Converted:
    """What a conversion came to.

    Attributes:
        episodes: how many were converted.
        skipped: why others were not, by their names.
    """

    episodes: int
    skipped: Mapping[str, str]


def convert(source: Source, out: str | Path, *, processes: int = 1, console: Console | None = None) -> Converted:
    """Convert ``source`` to a LeRobot v3.0 dataset at ``out``; run it again after an interruption and it goes on.

    The features are those of the first episode that can be read; an episode that lacks one is skipped. What was skipped
    is returned, and stands in ``meta/conversion.json`` with the conventions of what is stored.

    Raises:
        UserError: no episode can be read, something is at ``out`` already, episodes were staged there from another
            source, or the disk is full.
    """
    places = source.places()
    features = _features(source, places)
    writer = DatasetWriter(out, features, source.fps, source.robot_type)
    keep_to_plan(writer.staging, {"source": str(source.root.resolve()), "settings": repr(source)})
    arguments = (source, writer.root, features)
    skipped = stage_all(stage_one, arguments, places, writer.staged_episodes(), processes, console)
    record = {"source": source.root.name, "conventions": dict(source.conventions), "skipped": skipped}
    count = len(writer.staged_episodes())
    writer.finish(notes={RECORD: record})
    return Converted(count, skipped)


def _features(source: Source, places: Sequence[Place]) -> dict[str, Feature]:
    """Those of the first episode that can be read."""
    reason = "it is empty"
    for place in places:
        try:
            return source.features(source.read(readable(place)))
        except UserError as error:
            reason = f"{place.name}: {error}"
    raise UserError(f"{source.root}: no episode can be converted; the last one: {reason}")


def readable(place: Place) -> Place:
    """The place itself; a UserError where it is known that nothing can be read."""
    if place.problem is not None:
        raise UserError(place.problem)
    return place


def stage_one(source: Source, out: Path, features: Mapping[str, Feature], place: Place) -> None:
    """Read one episode and stage it: what a worker does."""
    recording = source.read(place)
    missing = [name for name in features if name not in recording.frames]
    if missing:
        raise UserError(f"it has no {missing[0]}, which the first episode has")
    writer = DatasetWriter(out, features, source.fps, source.robot_type)
    frames = {name: recording.frames[name] for name in features}  # what the first does not have is left out
    writer.stage_episode(place.number, frames, recording.task)


def stage_all(
    stage: Callable[..., None],
    arguments: tuple[Any, ...],
    places: Sequence[Place],
    staged: Iterable[int],
    processes: int,
    console: Console | None,
) -> dict[str, str]:
    """Call ``stage(*arguments, place)`` for every place whose number is not among ``staged``.

    Returns:
        why episodes were skipped, by their names, in the order of ``places``.

    Raises:
        UserError: there is no process to do it, or the disk is full.
    """
    if processes < 1:
        raise UserError(f"processes = {processes}: at least one is needed.")
    done = set(staged)
    calls = [Call(place.name, _reason, (stage, arguments, place)) for place in places if place.number not in done]
    reasons: dict[str, str] = {}
    with progress_bar(console) as bar:
        task = bar.add_task("converting", total=len(places), completed=len(places) - len(calls), note="episodes")
        for name, reason in _answers(calls, processes):
            if reason is not None:
                reasons[name] = reason
            bar.update(task, advance=1, note=f"episodes, {len(reasons)} skipped" if reasons else "episodes")
    return {place.name: reasons[place.name] for place in places if place.name in reasons}


def _answers(calls: Sequence[Call], processes: int) -> Iterator[tuple[str, str | None]]:
    if processes == 1:
        yield from ((call.key, call.function(*call.arguments)) for call in calls)
        return
    with Workers(processes) as workers:
        for answer in workers.map(calls):
            if answer.error is not None:
                raise RuntimeError(f"converting {answer.key} failed:\n{answer.error}")
            yield answer.key, answer.value


def _reason(stage: Callable[..., None], arguments: tuple[Any, ...], place: Place) -> str | None:
    """Why the episode at ``place`` cannot be staged; None if it was."""
    try:
        stage(*arguments, readable(place))
    except UserError as error:
        if is_full_disk(error):
            raise
        return str(error).removeprefix(f"episode-{place.number:06d}").lstrip(":, ")
    return None


def keep_to_plan(staging: Path, plan: Mapping[str, Any]) -> None:
    """Note what is converted, or check that it is what the staged episodes were made from.

    Raises:
        UserError: it is something else.
    """
    path = staging / "source.json"
    if not path.exists():
        write_json(path, dict(plan))
    elif json.loads(path.read_text()) != plan:
        raise UserError(
            f"{staging}: holds episodes converted from something else or with other settings; remove it to start again."
        )
