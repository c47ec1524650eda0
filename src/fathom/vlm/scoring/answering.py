"""A model answers a benchmark's questions, one line of a file after the other."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from rich.console import Console

from fathom.errors import UserError
from fathom.files import full_disk_is_told, write_file
from fathom.progress import progress_bar
from fathom.vlm.scoring.benchmarks import BENCHMARKS, BenchmarkName
from fathom.vlm.scoring.lines import Line
from fathom.vlm.scoring.questions import Question


class Answerer(Protocol):
    """What can be asked: `fathom.vlm.model.DepthVLM` is one."""

    def answer(self, image: Image.Image, question: str, depth: Path | None = None, *, max_new_tokens: int = 128) -> str:
        """What it says to a question about an RGB picture.

        Args:
            depth: a 16-bit PNG in millimetres, where the benchmark brings one.
            max_new_tokens: how long the answer may be.
        """
        ...


def answer_questions(
    model: Answerer, questions: Sequence[Question], predictions: Path, *, max_new_tokens: int = 128
) -> None:
    """Writes a file of answers, see `fathom.vlm.scoring.score_file`; one that was begun is continued.

    An interruption costs at most the answer that was being given.

    Raises:
        UserError: what is there answers other questions; a picture cannot be read; the disk is full.
    """
    done = _answered(predictions, questions)
    with (
        progress_bar(Console(stderr=True)) as bar,
        full_disk_is_told(predictions),
        predictions.open("a", encoding="utf-8") as file,
    ):
        task = bar.add_task("answering", total=len(questions), completed=done, note="")
        for question in questions[done:]:
            said = model.answer(question.picture(), question.text, question.depth, max_new_tokens=max_new_tokens)
            file.write(json.dumps(question.known | {question.response: said}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            bar.advance(task)


def check_scorable(questions: Sequence[Question], benchmark: BenchmarkName, path: Path) -> None:
    """Refuse questions that could not be scored once they are answered, before any answer is paid for.

    Args:
        path: the file or folder that they come from.

    Raises:
        UserError: a field is missing or wrong, such as a truth that is no number.
    """
    lines = [
        Line(path, number, question.known | {question.response: ""}, "question")
        for number, question in enumerate(questions, 1)
    ]
    BENCHMARKS[benchmark].score(lines, "fixed")


def _whole_lines(file: Path) -> list[bytes]:
    """The lines of a file that is written line by line, without a last one that was cut; none if there is no file.

    In bytes: a line ends at a line feed alone, not at the other separators that an answer may contain, and it may have
    been cut within a character.
    """
    return file.read_bytes().split(b"\n")[:-1] if file.exists() else []


def _answered(predictions: Path, questions: Sequence[Question]) -> int:
    """How many questions a file answers already; a line that was cut is removed from it."""
    lines = _whole_lines(predictions)
    for number, line in enumerate(lines):
        if number >= len(questions) or _known(line, questions[number].response) != questions[number].known:
            raise UserError(
                f"{predictions}, line {number + 1}: answers another question than the benchmark's; remove the file, or "
                "choose another folder."
            )
    write_file(predictions, b"".join(line + b"\n" for line in lines))
    return len(lines)


def _known(line: bytes, response: str) -> dict[str, Any] | None:
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return {name: value for name, value in fields.items() if name != response} if isinstance(fields, dict) else None
