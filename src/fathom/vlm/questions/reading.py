"""The questions of a folder that `fathom.vlm.questions.writing` made, ready to be put to a model."""

from pathlib import Path

from fathom.errors import UserError
from fathom.vlm.scoring.questions import Question, read_questions


def read_made_questions(path: str | Path) -> list[Question]:
    """The questions of a file such as ``test.jsonl``, each with its scene; answered, they are scored as MSMU's.

    Raises:
        UserError: the file or a field is missing or wrong; reading a picture may raise it, too.
    """
    questions = read_questions("msmu", Path(path))
    if not all("scene" in question.known for question in questions):
        raise UserError(
            f"{path}: has questions without a field 'scene': make the folder anew with fathom vlm questions"
        )
    return questions
