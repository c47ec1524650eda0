"""The rows of an ablation against calculations by hand."""

import io
import json

import pytest
from rich.console import Console

from fathom.evaluation.ablation import FULL, HEADINGS, Trial, ablation_table, cells, compare
from fathom.evaluation.held_out import HeldOut
from fathom.evaluation.results import EpisodeResult, Result
from fathom.evaluation.statistics import matched_difference

TASKS = ("reach", "push")


def trial(seed: int, solved: str, held_out: HeldOut | None = None, parameters: int = 0) -> Trial:
    """``solved``: one letter an episode, x is a success; the two tasks stand apart."""
    solved = solved.replace(" ", "")
    each = len(solved) // len(TASKS)
    episodes = tuple(
        EpisodeResult(TASKS[i // each], 10_000 + i % each, i % each, letter == "x", 5, 0.1)
        for i, letter in enumerate(solved)
    )
    return Trial(seed, "0123", Result("p", "metaworld", {}, {}, episodes), held_out, parameters)


TRIALS = {
    FULL: [
        trial(0, "xxxx x.xx", HeldOut(4, 0.2, 0.10, 0.9)),
        trial(1, "xx.x xxxx", HeldOut(4, 0.3, 0.20, 0.9)),
    ],
    "depth=none": [trial(0, "x... x.x.", HeldOut(4, 0.4), 1_234_567), trial(1, "xx.. ..x.", HeldOut(4, 0.5))],
}
CHANGES = {FULL: {}, "depth=none": {"policy.depth": "none"}}


def test_a_row_counts_all_seeds_and_keeps_each() -> None:
    full, none = compare(TRIALS, CHANGES)
    assert (full.n, full.successes, full.seeds) == (16, 14, (0, 1))
    assert full.success_per_seed == (7 / 8, 7 / 8) and none.success_per_seed == (3 / 8, 3 / 8)
    assert full.success.value == 14 / 16 and none.success.value == 6 / 16
    assert full.difference is None and (full.paper, none.paper) == (68.5, 60.0)
    assert none.action_error == (0.4, 0.5) and none.depth_abs_rel == () and full.depth_abs_rel == (0.1, 0.2)


def test_errors_are_compared_seed_by_seed() -> None:
    full, none = compare({FULL: TRIALS[FULL][::-1], "depth=none": TRIALS["depth=none"]}, CHANGES)
    assert full.action_error == (0.2, 0.3) and full.action_error_difference is None
    shift = none.action_error_difference
    assert shift is not None and shift == pytest.approx((0.2, 0.2, 0.2))  # both seeds: 0.2 more
    assert none.depth_abs_rel_difference is None
    apart = [trial(0, "x... x.x.", HeldOut(4, 0.3)), trial(1, "xx.. ..x.", HeldOut(4, 0.6))]
    shift = compare({**TRIALS, "depth=none": apart}, CHANGES)[1].action_error_difference
    # differences 0.1 and 0.3: the mean 0.2 with Student's t of one degree of freedom, 12.706 times 0.1
    assert shift is not None and shift == pytest.approx((0.2, 0.2 - 1.2706, 0.2 + 1.2706), abs=1e-3)
    assert "+0.200 (-1.071 to +1.471)" in cells(compare({**TRIALS, "depth=none": apart}, CHANGES)[1])[4]


def test_the_difference_pairs_episodes_by_seed_task_and_layout() -> None:
    """Worst case for a mistake in the pairing: the same episodes in another order make no difference at all."""
    turned = [trial(0, "xx.. ...."), trial(1, ".... ..xx")]
    shuffled = [
        Trial(t.seed, "", Result("q", "metaworld", {}, {}, tuple(reversed(t.result.episodes))), None)
        for t in reversed(turned)
    ]
    _, row = compare({FULL: turned, "same": shuffled}, {FULL: {}, "same": {"a": "1"}})
    assert row.difference is not None
    score = matched_difference(4, 0, 0, 12)
    assert row.difference.value == 0 and row.difference.low <= score.low and row.difference.high >= score.high
    none = compare(TRIALS, CHANGES)[1].difference
    assert none is not None and none.value == pytest.approx(-0.5) and none.high < 0


def test_a_run_that_is_not_done_compares_the_seeds_that_both_have() -> None:
    trials = {**TRIALS, "blind=true": [trial(0, ".... ....")], "depth_weight=0": []}
    changes = {**CHANGES, "blind=true": {"policy.blind": "true"}, "depth_weight=0": {"depth_weight": "0"}}
    rows = compare(trials, changes)
    assert [row.variant for row in rows] == [FULL, "depth=none", "blind=true"]
    assert rows[2].difference is not None and rows[2].difference.value == pytest.approx(-7 / 8)
    assert rows[2].difference[1:] == pytest.approx(matched_difference(0, 0, 7, 1)[1:])
    (alone,) = compare({"blind=true": [trial(0, ".... ....")]}, changes)
    assert alone.difference is None


def test_the_table_says_it_all() -> None:
    rows = compare(TRIALS, CHANGES)
    assert cells(rows[0]) == (
        "full", "87.5 % (14/16, 64-97)", "88 88", "", "0.250 (0.200-0.300)", "0.150 (0.100-0.200)", "68.5", "0.00 M",
    )  # fmt: skip
    shown = cells(rows[1])
    assert shown[3].startswith("-50.0 (-") and shown[5] == "" and shown[6:] == ("60.0", "1.23 M")
    console = Console(file=io.StringIO(), width=200)
    console.print(ablation_table(rows))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(heading in text for heading in HEADINGS) and "14/16" in text and "depth=none" in text


def test_a_row_is_json_with_named_intervals() -> None:
    raw = json.loads(json.dumps([row.to_json() for row in compare(TRIALS, CHANGES)]))
    assert raw[0]["difference"] is None and raw[0]["success"]["value"] == 0.875
    assert set(raw[1]["difference"]) == {"value", "low", "high"} and raw[1]["n"] == 16
