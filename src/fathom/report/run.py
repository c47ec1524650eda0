"""What a quickstart's folder holds so far."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fathom.config import read_json
from fathom.errors import UserError
from fathom.evaluation import Result
from fathom.policies import Policy, load_policy
from fathom.training.device import pick_device
from fathom.training.tokenizer import TokenizerScore, read_score

OURS = "qdepth_vla"
POLICIES = {
    OURS: "QDepth-VLA",
    "pi0": "π0, no depth",
    "blind": "QDepth-VLA, blind",
    "expert": "scripted expert",
    "random": "random actions",
}
"""What the report calls the policies of a run, in the order in which it shows them."""

_SETTINGS = {"tasks", "episodes_per_task", "tokenizer", "policy", "protocol"}

Metrics = Mapping[str, tuple[list[float], list[float]]]
"""Of each quantity that a training logged: the steps, and its values there."""


@dataclass(frozen=True)
class Run:
    """A run, finished or still going; what is not there yet is empty or ``None``.

    Attributes:
        settings: the resolved recipe.
        results: of each policy that has been evaluated.
        metrics: of each training: the policies' by name, and ``tokenizer``.
        collection: how the demonstrations were collected, with their yield.
        score: of the depth tokenizer.
        policy: the trained policy.
    """

    folder: Path
    settings: Mapping[str, Any]
    results: Mapping[str, Result]
    metrics: Mapping[str, Metrics]
    collection: Mapping[str, Any] | None
    score: TokenizerScore | None
    policy: Policy | None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises UserError where there is no run, or a part of it is damaged."""
        path = folder / "settings.json"
        if not path.is_file() or not set(settings := read_json(path, "run")) >= _SETTINGS:
            raise UserError(
                f"{folder} is no quickstart run and no training: give the folder that `fathom quickstart`, "
                "`fathom train` or `fathom tokenizer train` wrote to."
            )
        found = [path.parent.name for path in sorted((folder / "eval").glob("*/results.json"))]
        names = [name for name in POLICIES if name in found] + [name for name in found if name not in POLICIES]
        trainings = {"tokenizer": folder / "tokenizer", OURS: folder / "policy"}
        trainings |= {name: folder / "compare" / name for name in ("pi0", "blind")}
        collection = folder / "dataset" / "meta" / "collection.json"
        policy = load_policy(folder / "policy") if (folder / "policy" / "config.json").is_file() else None
        return cls(
            folder=folder,
            settings=settings,
            results={name: Result.load(folder / "eval" / name / "results.json") for name in names},
            metrics={name: metrics for name, at in trainings.items() if (metrics := read_metrics(at))},
            collection=read_json(collection, "collection") if collection.is_file() else None,
            score=read_score(folder / "tokenizer") if (folder / "tokenizer" / "score.json").is_file() else None,
            policy=policy.to(pick_device()) if policy else None,
        )

    @property
    def compared(self) -> bool:
        """Whether the run trains the baselines too."""
        return (self.folder / "compare").is_dir()


def label(name: str) -> str:
    """What the report calls a policy."""
    return POLICIES.get(name, name)


def read_metrics(folder: Path) -> Metrics:
    """What a training has logged so far; empty before its first line."""
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.is_file() else ""
    # A run that is still going may be writing its last line.
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return {
        name: ([line["step"] for line in lines if name in line], [line[name] for line in lines if name in line])
        for name in dict.fromkeys(name for line in lines for name in line)
        if name != "step"
    }
