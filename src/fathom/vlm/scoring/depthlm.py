"""DepthLMBench: how far a marked pixel is (DepthLM, arXiv 2509.25413; its ``utils/metrics.py``).

A line is ``{"id", "response", "depth"}``, the depth in metres. An answer is right if max(p/g, g/p) < 1.25; the score is
δ1, the share of right answers. What holds no number is wrong. The number is that between ``<answer>`` tags, where the
benchmark's prompt asks for it, or else the last one, which is also what the released parser prefers.
"""

from collections.abc import Sequence

from fathom.vlm.scoring.answers import final, lengths
from fathom.vlm.scoring.lines import Line
from fathom.vlm.scoring.score import ROUNDING, Mode, Outcome, Score, shortened, summarise

TYPE = "delta1"
OFFICIAL_ERRORS = ("A negative answer is right: its ratios are negative, and so below 1.25.",)


def score(lines: Sequence[Line], mode: Mode) -> Score:
    """Raises:
    UserError: a field is missing or wrong.
    """
    return summarise([_outcome(line, mode) for line in lines], [TYPE])


def _outcome(line: Line, mode: Mode) -> Outcome:
    line.text("id")
    response, truth = line.text("response"), line.positive("depth")
    found = lengths(final(response))
    if not found:
        return Outcome(line, TYPE, 0.0, f"no number in {shortened(response)}")
    if within_ratio(found[-1], truth, mode):
        return Outcome(line, TYPE, 1.0)
    return Outcome(line, TYPE, 0.0, f"{found[-1]:g} m in place of {truth:g} m")


def within_ratio(value: float, truth: float, mode: Mode) -> bool:
    """max(p/g, g/p) < 1.25; by the official formula also where both ratios are negative."""
    if value == 0 or (mode == "fixed" and value < 0):
        return False
    return max(value / truth, truth / value) < 1.25 - ROUNDING
