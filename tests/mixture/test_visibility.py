import pytest
import torch

from fathom.mixture import Span, Visibility

TABLE = Visibility(
    {"image": "image text", "text": "image text", "action": "image text action"}, causal={"action": "action"}
)


def test_mask_follows_the_table_token_by_token():
    mask = TABLE.mask(["image", "text", "action"], [Span("image", 2), Span("text", 1), Span("action", 2)])
    expected = torch.tensor(
        [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.bool
    )
    assert torch.equal(mask.dense[0, 0], expected)


def test_queries_may_be_any_part_of_the_keys():
    keys = [Span("image", 2), Span("text", 1), Span("action", 2)]
    whole = TABLE.mask(["image", "text", "action"], keys).dense[0, 0]
    assert torch.equal(TABLE.mask(["action"], keys).dense[0, 0], whole[3:])
    assert torch.equal(TABLE.mask(["action", "image"], keys).dense[0, 0], torch.cat([whole[3:], whole[:2]]))


def test_padding_is_read_by_nobody():
    valid = torch.tensor([[True, False], [True, True]])
    mask = TABLE.mask(["text"], [Span("image", 1), Span("text", 2, valid)]).dense
    assert mask[:, 0, 0].tolist() == [[True, True, False], [True, True, True]]


def test_closure_is_what_reaches_whom_over_layers():
    chain = Visibility({"a": "a", "b": "a", "c": "b", "d": "c d"})
    assert chain.closure().reads == {"a": "a", "b": "a", "c": "a b", "d": "a b c d"}


def test_without_removes_rows_and_columns():
    assert TABLE.without("text").reads == {"image": "image", "action": "image action"}
    assert TABLE.without("text").sees_causally("action", "action")


def test_a_table_prints_its_marks():
    lines = str(TABLE).splitlines()
    assert lines[0].split() == ["image", "text", "action"]
    assert lines[3].split() == ["action", "■", "■", "◣"]


@pytest.mark.parametrize(
    ("reads", "causal", "said"),
    [({"a": "a b"}, {}, "no row"), ({"a": ""}, {"a": "a"}, "does not read")],
)
def test_an_inconsistent_table_is_refused(reads, causal, said):
    with pytest.raises(ValueError, match=said):
        Visibility(reads, causal)


def test_unknown_blocks_are_refused():
    with pytest.raises(ValueError, match="no row"):
        TABLE.mask(["depth"], [Span("depth", 1)])
    with pytest.raises(ValueError, match="not part"):
        TABLE.mask(["action"], [Span("text", 1)])
