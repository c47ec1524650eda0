"""The drawn visibility table is the table of the policy."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fathom.mixture import Visibility
from fathom.policies.deepvision_vla import DeepVisionVLA
from fathom.policies.qdepth_vla import VISIBILITY, DepthConfig
from fathom.recipes.deepvision import deepvision_quickstart
from fathom.report import sections
from fathom.report.html import visibility_table
from fathom.report.run import Run
from fathom.report.sections import visibility_cells

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
    assert POLICY.tokens == {"image": 16, "text": 32, "depth": 16, "proprio": 1, "action": 2}
    two = replace(POLICY, cameras=("main", "wrist"), depth=DepthConfig(grid=8))
    assert two.tokens["image"] == 32 and two.tokens["depth"] == 16
    assert list(replace(POLICY, depth=None).tokens) == ["image", "text", "proprio", "action"]


def test_the_table_of_a_policy_with_a_vision_expert() -> None:
    """Its blocks, with as many tokens as meet the language model: CLS, four registers, half of 16 x 16 patches."""
    with torch.device("meta"):
        policy = DeepVisionVLA(deepvision_quickstart().policy)
    shown = sections.visibility(Run(Path(), {}, {}, {}, None, None, policy))
    assert "<h2>Who reads whom</h2>" in shown and "expert_main" in shown and "133" in shown
    assert policy.config.tokens == {"prompt": 64 + 12, "action": 8, "proprio": 1, "expert_main": 133}
