"""The questions of a folder that `fathom.vlm.questions.writing` made, ready to be put to a model."""

from pathlib import Path

from fathom.vlm.scoring.questions import Question, read_questions


def read_made_questions(path: str | Path) -> list[Question]:
    """The questions of a file such as ``test.jsonl``; with their responses they are scored as MSMU's.

    Raises:
        UserError: the file or a field is missing or wrong; reading a picture may raise it, too.
    """
    return read_questions("msmu", Path(path))
