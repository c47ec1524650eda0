"""The questions of a folder that `fathom.vlm.questions.writing` made, ready to be put to a model."""

from functools import partial
from pathlib import Path

from fathom.vlm.depth_input import read_image
from fathom.vlm.scoring.lines import Line, read_lines
from fathom.vlm.scoring.questions import Question


def read_made_questions(path: str | Path) -> list[Question]:
    """The questions of a file such as ``test.jsonl``; with their responses they are scored as MSMU's.

    Raises:
        UserError: the file or a field is missing or wrong; reading a picture may raise it, too.
    """
    return [_question(line) for line in read_lines(Path(path))]


def _question(line: Line) -> Question:
    known = {name: line.text(name) for name in ("id", "type", "question", "answer")}
    image, depth = (line.path.parent / line.text(name) for name in ("image", "depth"))
    return Question(known, known["question"], partial(read_image, image), depth)
