"""The drawn visibility table is the table of the policy."""

import re
from dataclasses import replace

import pytest

from fathom.mixture import Visibility
from fathom.policies.qdepth_vla import VISIBILITY, DepthConfig
from fathom.report.html import visibility_table
from fathom.report.sections import token_counts, visibility_cells

from .conftest import POLICY


def test_the_hybrid_table_as_in_the_papers_figure() -> None:
    assert visibility_cells(VISIBILITY["hybrid"]) == [
        [1, 1, 0, 0, 0],  # image
        [1, 1, 0, 0, 0],  # text
        [1, 1, 1, 0, 0],  # depth
        [1, 1, 0, 1, 0],  # proprio
        [1, 1, 1, 1, 1],  # action
    ]


@pytest.mark.parametrize("name", VISIBILITY)
def test_the_page_marks_exactly_the_cells_of_the_table(name: str) -> None:
    table = VISIBILITY[name]
    drawn = visibility_table(
        dict.fromkeys(table.blocks, 1), visibility_cells(table), dict.fromkeys(table.blocks, "blue")
    )
    marks = iter(re.findall(r'aria-label="([\w ]+)"', drawn))
    for query in table.blocks:
        for key in table.blocks:
            assert next(marks) == ("read" if table.sees(query, key) else "not read"), (query, key)
    assert next(marks, None) is None


def test_causal_reading_is_marked() -> None:
    table = Visibility({"text": "text", "action": "text action"}, causal={"text": "text"})
    assert visibility_cells(table) == [[2, 0], [1, 1]]


def test_tokens_are_counted() -> None:
    assert token_counts(POLICY) == {"image": 16, "text": 32, "depth": 16, "proprio": 1, "action": 2}
    two = replace(POLICY, cameras=("main", "wrist"), depth=DepthConfig(grid=8))
    assert token_counts(two)["image"] == 32 and token_counts(two)["depth"] == 16
    assert list(token_counts(replace(POLICY, depth=None))) == ["image", "text", "proprio", "action"]
