"""What the results say, in sentences that say no more than the numbers do."""

from collections.abc import Mapping

from fathom.evaluation import Rate, Result, difference
from fathom.evaluation.results import OVERALL

from .run import OURS, label

NBSP = "\N{NO-BREAK SPACE}"


def headline(result: Result) -> str:
    """One policy's success over all of its episodes."""
    overall, tasks = result.summary[OVERALL], len(result.summary) - 1
    return (
        f"{label(result.policy)} succeeds in {percent(overall['rate'])} of {overall['n']:.0f} held-out episodes "
        f"of {tasks} {'task' if tasks == 1 else 'tasks'} "
        f"(95{NBSP}% interval {interval(overall)})"
    )


def comparisons(results: Mapping[str, Result]) -> dict[str, str]:
    """For every other policy, one sentence on how ours compares with it."""
    if OURS not in results:
        return {}
    ours = results[OURS].summary[OVERALL]
    return {
        name: f"{label(name)} {percent(theirs['rate'])}: {_compare(ours, theirs)}"
        for name, theirs in ((name, result.summary[OVERALL]) for name, result in results.items() if name != OURS)
    }


def verdict(results: Mapping[str, Result]) -> str | None:
    """The headline, and how it compares with the scripted expert and with random actions."""
    if OURS not in results:
        return None
    ours = results[OURS].summary[OVERALL]
    clauses = [
        f"{_clause(_gap(ours, results[name].summary[OVERALL]))} {'the ' if name == 'expert' else ''}{label(name)}"
        for name in ("expert", "random")
        if name in results
    ]
    return f"{headline(results[OURS])}{': ' if clauses else ''}{' and '.join(clauses)}."


def percent(rate: float) -> str:
    """A share as a whole percentage."""
    return f"{100 * rate:.0f}{NBSP}%"


def interval(count: Mapping[str, float]) -> str:
    """The interval of a share."""
    return f"{100 * count['low']:.0f}–{100 * count['high']:.0f}{NBSP}%"


def _gap(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Rate:
    return difference(int(ours["successes"]), int(ours["n"]), int(theirs["successes"]), int(theirs["n"]))


def _compare(ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    gap = _gap(ours, theirs)
    bounds = f"95{NBSP}% interval of the difference {_signed(gap.low)} to {_signed(gap.high)}"
    if gap.low <= 0 <= gap.high:
        return f"a difference of {_points(gap.value, signed=True)} ({bounds}), which this run cannot tell from none."
    side = "above" if gap.value > 0 else "below"
    return f"QDepth-VLA is {_points(gap.value)} {side} it ({bounds})."


def _clause(gap: Rate) -> str:
    if gap.low <= 0 <= gap.high:
        return "not distinguishable from"
    return f"{_points(gap.value)} {'above' if gap.value > 0 else 'below'}"


def _points(share: float, *, signed: bool = False) -> str:
    number = _signed(share) if signed else f"{abs(100 * share):.0f}"
    return f"{number} {'point' if number.strip('+−') == '1' else 'points'}"


def _signed(share: float) -> str:
    number = round(100 * share)
    return f"{number:+d}".replace("-", "−") if number else "0"
