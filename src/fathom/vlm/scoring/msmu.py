"""MSMU-Bench (SD-VLM, arXiv 2509.17664; its ``evaluation/evaluate_final.py``).

A line is ``{"id", "type", "question", "response", "answer"[, "mark"]}``.

- *scale_estimation*, *absolute_distance*, *count*, *refer_obj_estimation*: right if max(p/g, g/p) < 1.25. Where the
  answer holds several numbers, the mean of the ratios decides; too few numbers are wrong, more are not looked at.
- *position*: right if the mean of |p − g| is at most 0.1.
- *relative_position*, *scale_compare*, *zero*, and positions in words: right if the mark of a judge is above 0.5.

The published evaluation asks a language model for the numbers and for the marks. Our numbers are read by rules
(`fathom.vlm.scoring.answers`), in both modes. Marks are taken from the file. Where they are missing, ``official`` has
no score for the type, and none overall; ``fixed`` judges by rules (`fathom.vlm.scoring.judge`).
"""

from collections.abc import Sequence

from fathom.vlm.scoring.answers import final, lengths, new_lengths, numbers
from fathom.vlm.scoring.judge import agrees, polarity
from fathom.vlm.scoring.lines import Line
from fathom.vlm.scoring.score import ROUNDING, Mode, Outcome, Score, shortened, summarise

NUMERIC = ("scale_estimation", "absolute_distance", "count", "position", "refer_obj_estimation")
JUDGED = ("relative_position", "scale_compare", "zero")
TYPES = (*NUMERIC, *JUDGED)
OFFICIAL_ERRORS = (
    "The overall score is the sum of the types' scores divided by 8, however many types the file holds.",
    "A negative number is right where a positive one is true: its ratios are negative, and so below 1.25.",
    "A count of 0 is wrong even where 0 is true: the division fails.",
)


def score(lines: Sequence[Line], mode: Mode) -> Score:
    """Raises:
    UserError: a field is missing or wrong.
    """
    outcomes = [_outcome(line, line.one_of("type", TYPES), mode) for line in lines]
    return summarise(outcomes, TYPES, of=len(TYPES) if mode == "official" else 0)


def judged(line: Line, name: str, question: str, answer: str, response: str, mode: Mode) -> Outcome:
    """A question that is not answered with a number: by the mark of a judge, or by rules where ``mode`` allows them."""
    mark = line.mark()
    if mark is not None:
        return Outcome(line, name, float(mark > 0.5), "" if mark > 0.5 else f"marked {mark:g}: {shortened(response)}")
    if mode == "official":
        return Outcome(line, name, None, "has no mark of a judge")
    verdict = agrees(question, answer, response)
    if verdict:
        return Outcome(line, name, 1.0)
    against = f"{shortened(response)} in place of {shortened(answer)}"
    return Outcome(line, name, 0.0, against if verdict is False else f"the rules cannot compare: {against}")


def _outcome(line: Line, name: str, mode: Mode) -> Outcome:
    line.text("id")
    question, answer, response = line.text("question"), line.text("answer"), final(line.text("response"))
    if name in JUDGED or (name == "position" and not lengths(answer)):
        return judged(line, name, question, answer, response, mode)
    truth = _values(name, question, answer)
    found = _values(name, question, response, wanted=len(truth))
    if not truth:
        return Outcome(line, name, 0.0, f"the benchmark's own answer holds no number: {shortened(answer)}")
    if len(found) < len(truth):
        missing = f"{len(found) or 'no'} number{'s' if len(found) > 1 else ''}"
        return Outcome(line, name, 0.0, f"{missing} in {shortened(response)}, expected {len(truth)}")
    right = _near(found, truth) if name == "position" else _in_proportion(found, truth, mode)
    if right:
        return Outcome(line, name, 1.0)
    shown = [", ".join(f"{value:g}" for value in values) for values in (found[: len(truth)], truth)]
    return Outcome(line, name, 0.0, f"{shown[0]} in place of {shown[1]}")


def _values(name: str, question: str, text: str, wanted: int = 1) -> list[float]:
    if name != "count":
        return new_lengths(text, question, wanted)
    return numbers(text) or ([0.0] if polarity(text) is False else [])  # "there are none"


def _near(found: Sequence[float], truth: Sequence[float]) -> bool:
    return sum(abs(value - true) for value, true in zip(found, truth, strict=False)) / len(truth) <= 0.1 + ROUNDING


def _in_proportion(found: Sequence[float], truth: Sequence[float], mode: Mode) -> bool:
    ratios = [_ratio(value, true, mode) for value, true in zip(found, truth, strict=False)]
    return sum(ratios) / len(ratios) < 1.25 - ROUNDING


def _ratio(value: float, truth: float, mode: Mode) -> float:
    """max(p/g, g/p); infinite where there is none, and, if errors are fixed, where the signs differ."""
    if mode == "fixed" and value == truth:
        return 1.0
    if value == 0 or truth == 0 or (mode == "fixed" and value * truth < 0):
        return float("inf")
    return max(value / truth, truth / value)
