"""What scoring gives: the score of each type of question, of all, and where it was lost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fathom.vlm.scoring.lines import Line

Mode = Literal["official", "fixed"]
"""``official``: as the benchmark's released script counts, its errors included; ``fixed``: without these errors."""


ROUNDING = 1e-12
"""5 ft are 1.25 times 4 ft, whatever metres in binary say: what is this near to a bound is on it."""


@dataclass(frozen=True)
class Outcome:
    """One question's part in the score.

    Attributes:
        value: 1 for right, 0 for wrong; also between or below, where a benchmark counts so. ``None`` where an official
            score needs a judge's mark and there is none.
        reason: why it is not 1, in one line.
    """

    line: Line
    type: str
    value: float | None
    reason: str = ""


@dataclass(frozen=True)
class Failure:
    """A question that lost points.

    Attributes:
        line: its number in the file, from 1.
    """

    line: int
    id: str
    type: str
    reason: str


@dataclass(frozen=True)
class Score:
    """The score of a file of answers.

    Attributes:
        trials: for each type, what each of its trials gave; a trial is a question, or a pair where pairs are counted.
            The type's score is their mean. ``None`` where a judge's marks are missing.
        overall: in percent; ``None`` where a type has none.
        n: questions.
    """

    trials: Mapping[str, Sequence[float] | None]
    overall: float | None
    n: int
    failures: Sequence[Failure]

    @property
    def per_type(self) -> dict[str, float | None]:
        """Percent, for each type that the file holds."""
        return {name: None if trials is None else percent(trials) for name, trials in self.trials.items()}

    def as_json(self) -> dict[str, object]:
        """What ``fathom vlm score --json`` prints."""
        return {"per_type": self.per_type, "overall": self.overall, "n": self.n}


Trials = Callable[[str, Sequence[Outcome]], Sequence[float]]
"""From a type's questions to its trials."""


def each_question(name: str, outcomes: Sequence[Outcome]) -> list[float]:
    """Every question is a trial of its own."""
    return [outcome.value or 0.0 for outcome in outcomes]


def summarise(outcomes: Sequence[Outcome], types: Sequence[str], trials: Trials = each_question, of: int = 0) -> Score:
    """The score of all questions: the mean of each type, and the mean of the types.

    Args:
        types: in the order in which they are shown.
        of: how many types there should be: those that are not there then count as 0. By default the mean is over those
            that are.
    """
    found: dict[str, Sequence[float] | None] = {}
    for name in types:
        own = [outcome for outcome in outcomes if outcome.type == name]
        if own:
            found[name] = None if any(outcome.value is None for outcome in own) else trials(name, own)
    scores = [percent(values) for values in found.values() if values is not None]
    overall = sum(scores) / (of or len(found)) if len(scores) == len(found) else None
    failures = [
        Failure(outcome.line.number, outcome.line.id, outcome.type, outcome.reason)
        for outcome in outcomes
        if outcome.reason
    ]
    return Score(found, overall, len(outcomes), failures)


def percent(trials: Sequence[float]) -> float:
    return 100 * sum(trials) / len(trials)


def shortened(text: str, width: int = 60) -> str:
    """A text in quotation marks on one line, cut where it is long."""
    line = " ".join(text.split())
    return f"'{line if len(line) <= width else line[: width - 3] + '...'}'"
