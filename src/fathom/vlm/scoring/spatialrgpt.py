"""SpatialRGPT-Bench (arXiv 2406.01584; its ``scripts/srgpt/eval/evaluate_spatial_with_gpt4.py``).

A line is what the released script reads, with a ``mark`` where a judge gave one:
``{"question", "pred", "gt", "qa_info": {"type", "category"}[, "question_id", "mark"]}``.

- quantitative *width*, *height*, *direct*, *horizontal*, *vertical distance*: right within 0.75 to 1.25 of the truth,
  both ends included.
- quantitative *direction*: right within one hour of the clock.
- qualitative: right if the mark of a judge is above 0.5; without marks as in MSMU-Bench (`fathom.vlm.scoring.msmu`).

Where nothing can be read the answer is wrong. The paper gives one mean over the questions of either kind and none over
all; ours is the mean of the types.
"""

import re
from collections.abc import Sequence

from fathom.vlm.scoring.answers import final, lengths, numbers
from fathom.vlm.scoring.lines import Line
from fathom.vlm.scoring.msmu import judged
from fathom.vlm.scoring.numerals import in_digits
from fathom.vlm.scoring.score import ROUNDING, Mode, Outcome, Score, shortened, summarise

QUANTITATIVE = {
    "distance_data": "direct_distance",
    "horizontal_distance_data": "horizontal_distance",
    "vertical_distance_data": "vertical_distance",
    "width_data": "width",
    "height_data": "height",
    "direction": "direction",
}
QUALITATIVE = {
    "below/above": ("below", "above"),
    "left/right": ("left", "right"),
    "big/small": ("big", "small"),
    "tall/short": ("tall", "short"),
    "wide/thin": ("wide", "thin"),
    "behind/front": ("behind", "front"),
}
TYPES = (*QUALITATIVE, *QUANTITATIVE.values())
OFFICIAL_ERRORS = ("A mark above 0 is right, where the prompt defines 1 as right and 0 as wrong.",)

_REGION = re.compile(r"\bregions?\s*(?:\[\d+\]|<\d+>|\d+)", re.IGNORECASE)
_HOUR = re.compile(r"(?<![\d.])(\d{1,2})(?::00)?\s*-?\s*o\W?\s?clock")


def score(lines: Sequence[Line], mode: Mode) -> Score:
    """Raises:
    UserError: a field is missing or wrong.
    """
    return summarise([_outcome(line, mode) for line in lines], TYPES)


def _outcome(line: Line, mode: Mode) -> Outcome:
    about = line.inside("qa_info")
    question, answer, response = line.text("question"), line.text("gt"), final(line.text("pred"))
    if about.one_of("type", ("quantitative", "qualitative")) == "qualitative":
        name = _pair_of(about)
        if mode == "official" and line.mark():
            return Outcome(line, name, 1.0)
        return judged(line, name, question, answer, response, mode)
    name = QUANTITATIVE[about.one_of("category", QUANTITATIVE)]
    truth, found = (_read(name, text) for text in (answer, response))
    if truth is None:
        return Outcome(line, name, 0.0, f"the benchmark's own answer holds no number: {shortened(answer)}")
    if found is None:
        return Outcome(line, name, 0.0, f"no number in {shortened(response)}")
    if name == "direction":
        right = _hours_apart(found, truth) <= 1
    else:
        right = 0.75 * truth <= found * (1 + ROUNDING) and found <= 1.25 * truth * (1 + ROUNDING)
    return Outcome(line, name, float(right), "" if right else f"{found:g} in place of {truth:g}")


def _pair_of(about: Line) -> str:
    category = about.text("category")
    for name, words in QUALITATIVE.items():
        if any(word in category for word in words):
            return name
    raise about.refused("category", f"a name with one of {', '.join(sum(QUALITATIVE.values(), ()))} in it")


def _read(name: str, text: str) -> float | None:
    """The first length in metres, or the hour of a direction; the numbers of regions are none."""
    text = _REGION.sub("region", text)
    if name != "direction":
        return next(iter(lengths(text)), None)
    hours = [float(hour) for hour in _HOUR.findall(in_digits(text))] or numbers(text)
    return next((hour for hour in hours if hour in range(1, 13)), None)


def _hours_apart(one: float, other: float) -> float:
    return min(abs(one - other), 12 - abs(one - other))
