"""Where a policy comes from, and the model card that says so on the hub."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from fathom.config import parse_config, read_json, write_config

_FILE = "provenance.json"


@dataclass(frozen=True)
class Provenance:
    """What a policy was made from, and how; saved with it as ``provenance.json``.

    Attributes:
        recipe: every setting of its training.
        data: what it learnt from: name, episodes, frames, tasks.
        metrics: the last line that its training logged.
        base: the hub id of the checkpoint that all began with; ``None`` if it was none of the hub.
        licence: of the weights, as the hub abbreviates it (``gemma``, ``apache-2.0``); ``None`` where nobody said.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    base: str | None = None
    licence: str | None = None

    def save(self, folder: Path) -> None:
        """Write ``provenance.json``."""
        write_config(self, folder / _FILE)

    @classmethod
    def load(cls, folder: Path) -> "Provenance":
        """Read it; a policy without one says nothing of where it comes from."""
        path = folder / _FILE
        if not path.is_file():
            return cls()
        values = read_json(path, "policy's provenance")
        # An open mapping is no configuration: its entries are whatever the recipe had.
        opened = {name: values.pop(name, {}) for name in ("recipe", "data", "metrics")}
        return cls(**opened, **vars(parse_config(_Closed, values, path)))


@dataclass(frozen=True)
class _Closed:
    base: str | None = None
    licence: str | None = None


def model_card(kind: str, provenance: Provenance, results: Sequence[str | Path] = ()) -> ModelCard:
    """The README.md of a policy on the hub: recipe, data, metrics and licence.

    Args:
        kind: the architecture's name.
        results: result files (``results.json``), whose success rates the card shows with their intervals.
    """
    data = ModelCardData(
        library_name="fathom",
        pipeline_tag="robotics",
        license=provenance.licence,
        base_model=provenance.base,
        tags=["robotics", "vision-language-action", "depth", kind],
    )
    sections = [
        f"# {kind}\n\nA vision-language-action policy, trained with Fathom.",
        '## Use\n\n```python\nimport fathom\n\npolicy = fathom.load_policy("owner/name")\n'
        "actions = policy.sample_actions(observation)\n```",
        f"## Data\n\n{_table(provenance.data) or 'Not recorded.'}",
        f"## Recipe\n\n{_table(dict(_flat(provenance.recipe))) or 'Not recorded.'}",
        f"## Metrics\n\n{_table(provenance.metrics) or 'No training was recorded.'}",
        *(_success(Path(path)) for path in results),
        f"## Licence\n\n{provenance.licence or 'Not stated.'}",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def _success(path: Path) -> str:
    """The summary of a result file, as a table with 95 % Wilson intervals."""
    result = read_json(path, "result")
    rows = [
        f"| {task} | {entry['successes']}/{entry['n']} | {entry['low']:.0%}–{entry['high']:.0%} |"
        for task, entry in result["summary"].items()
    ]
    protocol = json.dumps(result["protocol"])
    head = ["| task | success | 95 % interval |", "|---|---|---|"]
    return "\n".join(
        [f"### Success in closed loop: {result['suite']}", "", *head, *rows, "", f"Protocol: `{protocol}`"]
    )


def _table(values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items())])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
