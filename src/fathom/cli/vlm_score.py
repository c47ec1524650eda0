"""``fathom vlm score`` and ``fathom vlm eval``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from fathom.vlm.scoring import Score

Benchmark = Literal["msmu", "spatialbench", "depthlm", "spatialrgpt"]
Mode = Literal["official", "fixed"]


@dataclass(frozen=True)
class VlmScore:
    """Score a model's answers to a spatial benchmark."""

    predictions: tyro.conf.Positional[Path]
    """A file of answers: one JSON object a line, one line a question, in the benchmark's order."""

    benchmark: Benchmark
    """Whose rules count, and which fields a line has."""

    mode: Mode = "fixed"
    """`official`: as the released script counts, errors included; `fixed`: without them."""

    json: bool = False
    """Print one JSON object with per_type and overall, in percent, and n."""

    failures: int = 20
    """How many of the questions that lost points are listed."""

    def run(self) -> None:
        from fathom.vlm.scoring import score_file

        show(score_file(self.predictions, self.benchmark, self.mode), as_json=self.json, failures=self.failures)


@dataclass(frozen=True)
class VlmEval:
    """Ask a model a benchmark's questions and score what it says."""

    model: tyro.conf.Positional[str]
    """A depth-aware VLM's folder or hub id, or that of a published Qwen2.5-VL or Qwen3-VL."""

    path: tyro.conf.Positional[Path]
    """The folder to which the benchmark was downloaded."""

    benchmark: Benchmark
    """Which one it is."""

    out: Path
    """Where predictions.jsonl goes; an interrupted evaluation continues there."""

    estimator: str | None = None
    """Where the benchmark brings no depth, what estimates it: `transformers` and others, as for `fathom annotate`."""

    weights: str | None = None
    """The estimator's: a file, folder or hub id."""

    max_new_tokens: int = 512
    """How long an answer may be; models that think aloud need hundreds."""

    mode: Mode = "fixed"
    """`official`: as the released script counts, errors included; `fixed`: without them."""

    json: bool = False
    """Print one JSON object with per_type and overall, in percent, and n."""

    failures: int = 20
    """How many of the questions that lost points are listed."""

    def run(self) -> None:
        from fathom.recipes.vlm_benchmark import BenchmarkRun, evaluate_on_benchmark

        asked = BenchmarkRun(self.model, self.benchmark, self.estimator, self.weights, self.max_new_tokens)
        result = evaluate_on_benchmark(asked, self.path, self.out, self.mode)
        show(result, as_json=self.json, failures=self.failures)


def show(score: "Score", *, as_json: bool, failures: int) -> None:
    """One JSON object on standard output, or a table with 95 % intervals and the first of the failures below it."""
    from rich.console import Console
    from rich.table import Table

    if as_json:
        print(json.dumps(score.as_json()))
        return
    table = Table("type", "score %", "95 % interval", "trials")
    for name, value in score.per_type.items():
        trials = score.trials[name] or ()
        table.add_row(name, _percent(value), _interval(trials), str(len(trials) or "no marks"))
    table.add_section()
    table.add_row("overall", _percent(score.overall), "", f"{score.n} questions")
    console = Console(highlight=False, markup=False)
    console.print(table)
    for failure in score.failures[:failures]:
        console.print(f"line {failure.line}, {failure.type} {failure.id}: {failure.reason}", soft_wrap=True)
    if (rest := len(score.failures) - failures) > 0:
        console.print(f"and {rest} more that lost points; --failures {len(score.failures)} lists all", soft_wrap=True)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _interval(trials: Sequence[float]) -> str:
    """Wilson's for trials that are right or wrong; for those that are more or less right that of a mean."""
    from math import sqrt
    from statistics import mean, stdev

    from fathom.evaluation.statistics import wilson

    if set(trials) <= {0.0, 1.0}:
        _, low, high = wilson(int(sum(trials)), len(trials))
    elif len(trials) < 2:
        return "–"
    else:
        half = 1.96 * stdev(trials) / sqrt(len(trials))
        low, high = mean(trials) - half, mean(trials) + half
    return f"{100 * low:.1f} – {100 * high:.1f}" if trials else "–"
