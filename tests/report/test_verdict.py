"""The sentences say what the numbers say, and no more."""

import pytest

from fathom.report.verdict import NBSP, comparisons, verdict

from .conftest import make_result


def _results(**successes: int) -> dict[str, object]:
    return {name: make_result(name, won, n=20) for name, won in successes.items()}


def test_the_verdict_in_one_sentence() -> None:
    said = verdict(_results(qdepth_vla=15, expert=20, random=0)).replace(NBSP, " ")
    assert said == (
        "QDepth-VLA succeeds in 75 % of 20 held-out episodes of 1 task (95 % interval 53–89 %): "
        "25 points below the scripted expert and 75 points above random actions."
    )


def test_failure_is_told_as_it_is() -> None:
    said = verdict(_results(qdepth_vla=0, expert=20, random=0))
    assert "100 points below the scripted expert and not distinguishable from random actions." in said


def test_without_an_evaluation_of_ours_nothing_is_said() -> None:
    assert verdict(_results(expert=20)) is None and comparisons(_results(expert=20)) == {}
    assert verdict(_results(qdepth_vla=16)).endswith(").")


# bounds of Newcombe's method 10 for 20 episodes each, worked out apart from this code
@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        (18, 4, "QDepth-VLA is 70 points above it (95 % interval of the difference +40 to +84)."),
        (4, 18, "QDepth-VLA is 70 points below it (95 % interval of the difference −84 to −40)."),
        (16, 14, "a difference of +10 points (95 % interval of the difference −17 to +35), which this run cannot"),
        (14, 16, "a difference of −10 points (95 % interval of the difference −35 to +17), which this run cannot"),
        (9, 9, "a difference of 0 points (95 % interval of the difference −28 to +28), which this run cannot"),
    ],
)
def test_a_difference_counts_only_beyond_its_interval(ours: int, theirs: int, told: str) -> None:
    said = comparisons(_results(qdepth_vla=ours, pi0=theirs))["pi0"].replace(NBSP, " ")
    assert said.startswith(f"π0, no depth {5 * theirs} %: ") and told in said
