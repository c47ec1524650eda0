"""The one exception that stands for a user's mistake."""

from collections.abc import Sequence


class UserError(Exception):
    """Bad input, told in one sentence: the file, field or frame, what was expected, and how to mend it.

    The command line prints the sentence without a traceback and exits with code 2.

    Args:
        details: what the sentence can only sum up, one line each; printed below it.
    """

    def __init__(self, sentence: str, details: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.details = tuple(details)
