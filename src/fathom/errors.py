"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """Bad input, told in one sentence: the file, field or frame, what was expected, and how to mend it.

    The command line prints the sentence without a traceback and exits with code 2.
    """
