"""The result file: every episode of one evaluation of one policy, and what they add up to."""

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from rich.table import Table

from fathom.errors import UserError
from fathom.evaluation.statistics import wilson
from fathom.files import write_json

OVERALL = "overall"
_TYPES: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "seed": (int,),
    "init_state": (int,),
    "success": (bool,),
    "steps": (int,),
    "wall_s": (int, float),
    "error": (str, type(None)),
}


@dataclass(frozen=True)
class EpisodeResult:
    """One episode.

    Attributes:
        seed: of its layout.
        init_state: its number within its task.
        steps: actions carried out.
        wall_s: seconds from its start to its end, shared with the episodes that ran beside it.
        error: a traceback if it broke off; it then counts as a failure.
    """

    task: str
    seed: int
    init_state: int
    success: bool
    steps: int
    wall_s: float
    error: str | None = None

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ValueError that names the field at fault."""
        if not isinstance(value, dict) or set(value) != set(_TYPES):
            raise ValueError(f"an episode has the fields {', '.join(_TYPES)}")
        for name, types in _TYPES.items():
            if type(value[name]) not in types:
                raise ValueError(f"{name} is {value[name]!r}")
        return cls(**value)


@dataclass(frozen=True)
class Result:
    """The contents of ``results.json``.

    Attributes:
        policy: its name.
        protocol: see :class:`~fathom.evaluation.protocol.Protocol`.
        versions: of the packages that decide the outcome.
        weights: the policy's fingerprint; ``None`` for one without weights.
        cameras: that the policy looked through.
    """

    policy: str
    suite: str
    protocol: dict[str, Any]
    versions: dict[str, str]
    episodes: tuple[EpisodeResult, ...]
    weights: str | None = None
    cameras: tuple[str, ...] = ()

    @property
    def summary(self) -> dict[str, dict[str, float]]:
        """Per task and, under ``overall``, for all episodes: n, successes, rate and its 95 % Wilson interval."""
        tasks = dict.fromkeys(episode.task for episode in self.episodes)
        groups = {task: [e for e in self.episodes if e.task == task] for task in tasks}
        return {name: _count(group) for name, group in (*groups.items(), (OVERALL, self.episodes))}

    def save(self, path: Path) -> None:
        """Write the file; it appears whole or not at all."""
        head = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "episodes"}
        write_json(path, head | {"episodes": [asdict(e) for e in self.episodes], "summary": self.summary})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: the file is missing, is no result file, or its summary does not follow from its episodes.
        """
        try:
            value = json.loads(Path(path).read_text())
            episodes = tuple(EpisodeResult.from_json(episode) for episode in value["episodes"])
            head = {name: value[name] for name in ("policy", "suite", "protocol", "versions")}
            more = {"weights": value.get("weights"), "cameras": tuple(value.get("cameras", ()))}
            result = cls(**head, **more, episodes=episodes)
            summary = value["summary"]
        except FileNotFoundError:
            raise UserError(f"{path}: there is no result file; make one with `fathom eval`.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a result file ({error}); make it again with `fathom eval`.") from error
        if summary != result.summary:
            raise UserError(f"{path}: the summary does not follow from the episodes; make it again with `fathom eval`.")
        return result


def _count(episodes: Sequence[EpisodeResult]) -> dict[str, float]:
    n, successes = len(episodes), sum(episode.success for episode in episodes)
    rate, low, high = wilson(successes, n)
    return {"n": n, "successes": successes, "rate": rate, "low": low, "high": high}


def versions() -> dict[str, str]:
    """Python and the packages that decide what a policy does; those of the simulator are its worker's."""
    found = {"python": platform.python_version()}
    for name in ("fathom-vla", "torch", "transformers", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def success_table(results: Sequence[Result], title: str = "Success in closed loop") -> Table:
    """A row per task, a column per policy: rate, successes of n, 95 % interval.

    A version in words, such as that some of a simulator's assets are stand-ins, stands below.
    """
    table = Table("task", *(result.policy for result in results), title=title)
    summaries = [result.summary for result in results]
    names = dict.fromkeys(name for summary in summaries for name in summary if name != OVERALL)
    for name in (*names, OVERALL):
        if name == OVERALL:
            table.add_section()
        table.add_row(name, *(_cell(summary[name]) if name in summary else "" for summary in summaries))
    apart = {f"{name}: {version}" for result in results for name, version in result.versions.items() if " " in version}
    table.caption = "; ".join(sorted(apart)) or None
    return table


def _cell(count: dict[str, float]) -> str:
    interval = f"{100 * count['low']:.0f}-{100 * count['high']:.0f}"
    return f"{100 * count['rate']:.0f} %  ({count['successes']:.0f}/{count['n']:.0f}, {interval})"
