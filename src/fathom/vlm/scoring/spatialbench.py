"""SpatialBench (SpatialBot, arXiv 2406.13642; its ``bunny/eval/eval_spatialbench.py``).

A line is ``{"category", "id", "response", "answer"}``. Neighbours of a category, the first with the second and so on,
are pairs: one question and its opposite.

- *positional*: the share of right answers.
- *existence*: the share of pairs with both right.
- *reach*, *size*: of a pair's three points one for each right answer, and one for both.
- *counting*: 100 − mean(abs(p − g) / g · 100), which can be negative.

The script has no overall score; ours is the mean of the categories. It also stops at a count that is no bare integer:
here the first number counts, and an answer without one is off by 100 %.
"""

import re
from collections.abc import Callable, Sequence

from fathom.errors import UserError
from fathom.vlm.scoring.answers import final, numbers
from fathom.vlm.scoring.judge import contains_words, polarity
from fathom.vlm.scoring.lines import Line
from fathom.vlm.scoring.score import Mode, Outcome, Score, each_question, shortened, summarise

CATEGORIES = ("positional", "existence", "counting", "reach", "size")
OFFICIAL_ERRORS = (
    "An answer is right if the truth is any part of it, in the same case: 'Not sure' holds 'No', 'yes' is not 'Yes'.",
)

_PAIRED: dict[str, Callable[[float, float], float]] = {
    "existence": lambda one, other: one * other,
    "reach": lambda one, other: (one + other + one * other) / 3,
    "size": lambda one, other: (one + other + one * other) / 3,
}


def score(lines: Sequence[Line], mode: Mode) -> Score:
    """Raises:
    UserError: a field is missing or wrong, or a question has no partner.
    """
    outcomes = [_outcome(line, line.one_of("category", CATEGORIES), mode) for line in lines]
    for category in _PAIRED:
        own = [outcome.line for outcome in outcomes if outcome.type == category]
        if len(own) % 2:
            raise UserError(
                f"{own[-1].path}, line {own[-1].number}: the last of {len(own)} questions of the category '{category}' "
                "has no partner; its questions come in pairs, so keep the benchmark's order and leave none out."
            )
    return summarise(outcomes, CATEGORIES, _trials)


def _trials(category: str, outcomes: Sequence[Outcome]) -> list[float]:
    values = each_question(category, outcomes)
    if category not in _PAIRED:
        return values
    return [_PAIRED[category](one, other) for one, other in zip(values[::2], values[1::2], strict=True)]


def _outcome(line: Line, category: str, mode: Mode) -> Outcome:
    line.text("id")
    response, answer = line.text("response"), line.text("answer")
    if category == "counting":
        return _counted(line, final(response), answer)
    if _matches(response, answer, mode):
        return Outcome(line, category, 1.0)
    return Outcome(line, category, 0.0, f"{shortened(response)} in place of {shortened(answer)}")


def _matches(response: str, answer: str, mode: Mode) -> bool:
    if mode == "official":
        return answer in response
    response, answer = final(response), answer.strip(" .")
    if answer.lower() in ("yes", "no"):
        return polarity(response) == polarity(answer)
    if len(answer) == 1:  # the letter of an option: "a" is an article
        return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", response) is not None
    return contains_words(response, answer)


def _counted(line: Line, response: str, answer: str) -> Outcome:
    counts = numbers(answer)
    truth = counts[0] if len(counts) == 1 else 0
    if truth < 1 or truth % 1:
        raise line.refused("answer", "a count of at least 1")
    found = numbers(response)
    if not found:
        return Outcome(line, "counting", 0.0, f"no number in {shortened(response)}")
    value = 1 - abs(found[0] - truth) / truth
    return Outcome(line, "counting", value, "" if value == 1 else f"{found[0]:g} in place of {truth:g}")
