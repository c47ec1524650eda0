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
from fathom.vlm.scoring.questions import Question


class Answerer(Protocol):
    """What can be asked: `fathom.vlm.model.DepthVLM` is one."""

    def answer(self, image: Image.Image, question: str, depth: Path | None = None) -> str:
        """What it says to a question about an RGB picture.

        Args:
            depth: a 16-bit PNG in millimetres, where the benchmark brings one.
        """
        ...


def answer_questions(model: Answerer, questions: Sequence[Question], predictions: Path) -> None:
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
            said = model.answer(question.picture(), question.text, question.depth)
            file.write(json.dumps(question.known | {question.response: said}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            bar.advance(task)


def _answered(predictions: Path, questions: Sequence[Question]) -> int:
    """How many questions a file answers already; a line that was cut is removed from it."""
    lines = predictions.read_text(encoding="utf-8").splitlines(keepends=True) if predictions.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    for number, line in enumerate(whole):
        if number >= len(questions) or _known(line, questions[number].response) != questions[number].known:
            raise UserError(
                f"{predictions}, line {number + 1}: answers another question than the benchmark's; remove the file, or "
                "choose another folder."
            )
    write_file(predictions, "".join(whole).encode())
    return len(whole)


def _known(line: str, response: str) -> dict[str, Any] | None:
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return {name: value for name, value in fields.items() if name != response} if isinstance(fields, dict) else None
