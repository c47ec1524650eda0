"""The paper's tables against each other, and beside results of ours."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from fathom.evaluation import published
from fathom.evaluation.published import PublishedTable, ablation_of, beside
from fathom.evaluation.results import EpisodeResult, Result

TABLES = [
    published.LIBERO_SINGLE_VIEW,
    published.LIBERO_MULTI_VIEW,
    published.GOOGLE_ROBOT,
    published.WIDOWX,
    published.ABLATIONS,
]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_every_row_has_its_columns_and_an_average(table: PublishedTable) -> None:
    assert table.average.keys() == table.rows.keys()
    for row in table.rows.values():
        assert len(row) == len(table.columns)
        assert all(0 <= value <= 100 for value in row if value is not None)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_the_papers_averages_follow_from_its_rows(table: PublishedTable) -> None:
    """A digit that was mistyped would show; the paper took over CoT-VLA's average, and others' in Table 3."""
    for name, row in table.rows.items():
        taken_over = table is published.GOOGLE_ROBOT and name not in (published.QDEPTH, published.OPEN_PI0)
        if taken_over or name == "CoT-VLA-7B":
            continue
        numbers = [value for value in row if value is not None]
        assert table.average[name] == pytest.approx(sum(numbers) / len(numbers), abs=0.16), name


def test_the_ablations_ends_are_the_rows_of_table_4() -> None:
    assert published.ABLATIONS.rows["full"] == published.WIDOWX.rows[published.QDEPTH]
    assert published.ABLATIONS.rows["depth=none"] == published.WIDOWX.rows[published.OPEN_PI0]


def test_a_variant_finds_its_number_by_what_it_changes() -> None:
    assert ablation_of({}) == 68.5
    assert ablation_of({"depth_weight": "0.0"}) == ablation_of({"depth_weight": "0"}) == 65.6
    assert ablation_of({"policy.depth": "None"}) == 60.0
    assert ablation_of({"policy.depth.target": "pixels"}) == 64.6
    assert ablation_of({"policy.depth.visibility": "dreamvla"}) == 63.0
    assert ablation_of({"policy.depth.target": "latents"}) is None
    assert ablation_of({"policy.blind": "true"}) is None
    assert ablation_of({"policy.depth.target": "pixels", "policy.depth.visibility": "dreamvla"}) is None
    assert ablation_of({"recipe": "quickstart"}) is None
    theirs = {"policy.expert": "none", "policy.expert.fusion": "early", "policy.expert.pruning.guide": "instruction"}
    rates = [ablation_of({path: value}, "deepvision_vla") for path, value in theirs.items()]
    pruning = "policy.expert.pruning."
    for layer, rate in {4: 85.0, 8: 69.0, 12: 82.5, 16: 87.5}.items():
        one = {f"{pruning}last_layer": str(layer), f"{pruning}first_layer": str(layer)}
        assert ablation_of(one, "deepvision_vla") == rate
    assert ablation_of({f"{pruning}first_layer": "4", f"{pruning}last_layer": "8"}, "deepvision_vla") is None
    assert ablation_of({f"{pruning}guide": "cls", f"{pruning}first_layer": "0"}, "deepvision_vla") == 65.5
    assert ablation_of({f"{pruning}guide": "cls", f"{pruning}keep": "64"}, "deepvision_vla") is None
    assert (ablation_of({}, "deepvision_vla"), *rates) == (88.0, 65.5, 73.0, 84.0), "as in SPEC section 3"


def result(suite: str, solved: dict[str, int], of: int = 10) -> Result:
    episodes = [EpisodeResult(task, i, i, i < n, 50, 1.0) for task, n in solved.items() for i in range(of)]
    return Result("ours", suite, {}, {}, tuple(episodes))


def written(result: Result) -> str:
    table = beside(result)
    assert table is not None
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_libero_suite_stands_beside_its_column() -> None:
    lines = written(result("libero_goal", {"open the drawer": 9, "push the plate": 3})).splitlines()
    (line,) = (line for line in lines if "libero_goal" in line)
    assert "60.0 %" in line and "n = 20" in line and "94.0 %" in line and "83.6 %" in line
    assert any("Table 2" in line for line in lines)


def test_a_policy_with_a_wrist_camera_stands_beside_those_with_several_views() -> None:
    one = result("libero_goal", {"open the drawer": 9})
    assert "one view" in written(replace(one, cameras=("main",)))
    assert "several views" in written(replace(one, cameras=("main", "wrist")))


def test_widowx_tasks_stand_beside_theirs_and_the_average_needs_all_four() -> None:
    names = ("spoon_on_towel", "carrot_on_plate", "stack_cube", "put_eggplant_in_basket")
    text = written(result("simpler", dict(zip((f"widowx_{name}" for name in names), (5, 2, 0, 10), strict=True))))
    (carrot,) = (line for line in text.splitlines() if "carrot" in line)
    assert "20.0 %" in carrot and "57.5 %" in carrot and "61.3 %" in carrot
    (average,) = (line for line in text.splitlines() if "average" in line)
    assert "42.5 %" in average and "68.5 %" in average and "60.0 %" in average
    some = written(result("simpler", {"widowx_stack_cube": 4}))
    assert "39.6 %" in some and "average" not in some


def test_several_tasks_of_one_column_all_show() -> None:
    text = written(result("google_robot", {"open_drawer": 1, "close_drawer": 2, "place_apple_in_closed_drawer": 3}))
    lines = text.splitlines()
    assert [next(line for line in lines if name in line).count("58.0 %") for name in ("open_d", "close_d")] == [1, 1]
    assert "62.6 %" in next(line for line in lines if "apple" in line)


def test_what_the_paper_did_not_try_has_no_table() -> None:
    assert beside(result("metaworld", {"reach": 1})) is None
    assert beside(result("libero_90", {"open": 1})) is None
