"""A depth-aware VLM on a public benchmark: asked, and scored."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fathom.errors import UserError
from fathom.training.device import pick_device
from fathom.training.settings import check, claim
from fathom.vlm.ask import open_for_asking
from fathom.vlm.model import DepthVLM
from fathom.vlm.scoring import Score, score_file
from fathom.vlm.scoring.answering import answer_questions, check_scorable
from fathom.vlm.scoring.benchmarks import BenchmarkName
from fathom.vlm.scoring.questions import Question, read_questions
from fathom.vlm.scoring.score import Mode
from fathom.vlm.scoring.spatialbench import CATEGORIES


@dataclass(frozen=True)
class BenchmarkRun:
    """Who is asked what: an evaluation that goes on must find it unchanged.

    Attributes:
        model: a folder or hub id.
        benchmark: whose questions.
        estimator, weights: what gives pictures their depth, see :func:`fathom.vlm.ask.open_for_asking`.
        max_new_tokens: how long an answer may be; models that think aloud, such as DepthLM's, need hundreds.
    """

    model: str
    benchmark: BenchmarkName
    estimator: str | None = None
    weights: str | None = None
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"--max-new-tokens {self.max_new_tokens}: an answer has at least 1.")


def evaluate_on_benchmark(run: BenchmarkRun, path: Path, folder: Path, mode: Mode) -> Score:
    """Ask a model a benchmark's questions and score what it says; an interrupted evaluation is continued.

    Args:
        path: the folder of the benchmark, see :func:`fathom.vlm.scoring.questions.read_questions`.
        folder: gets ``settings.json`` and ``predictions.jsonl``.

    Raises:
        UserError: a file of the benchmark is bad, the folder holds another evaluation, or the model reads depth and
            there is none.
    """
    asked = read_questions(run.benchmark, path)
    check_scorable(asked, run.benchmark, path)
    if missing := _missing(run.benchmark, asked, path):
        print(f"{path}: lacks {', '.join(missing)}: the overall score is that of the others", file=sys.stderr)
    check(folder, run)
    model = open_for_asking(run.model, run.estimator, run.weights, device=pick_device())
    questions = _with_depth(asked, model)
    claim(folder, run)
    predictions = folder / "predictions.jsonl"
    answer_questions(model, questions, predictions, max_new_tokens=run.max_new_tokens)
    return score_file(predictions, run.benchmark, mode)


def _missing(benchmark: BenchmarkName, questions: Sequence[Question], path: Path) -> list[str]:
    """The files of SpatialBench that a folder does not have."""
    if benchmark != "spatialbench" or not path.is_dir():
        return []
    there = {question.known["category"] for question in questions}
    return [f"{category}.json" for category in CATEGORIES if category not in there]


def _with_depth(questions: Sequence[Question], model: DepthVLM) -> Sequence[Question]:
    """The questions with the depth that the model can read; a benchmark's own is metric.

    Raises:
        UserError: a picture has none, and there is no estimator.
    """
    if model.config.depth_kind != "metric":
        questions = [replace(question, depth=None) for question in questions]
    lacking = sum(question.depth is None for question in questions)
    if model.config.fusion != "none" and lacking and model.processor.estimator is None:
        raise UserError(
            f"this model reads {model.config.depth_kind} depth (fusion = {model.config.fusion}), and {lacking} of the "
            f"{len(questions)} questions come without: name what estimates it with --estimator and --weights."
        )
    return questions
