import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.mixture import Span, Visibility, attend, attention_weights


@st.composite
def cases(draw):
    """Random blocks, table, padding and heads; some queries may read nothing at all."""
    names = ["a", "b", "c", "d"][: draw(st.integers(1, 4))]
    reads = {query: " ".join(draw(st.sets(st.sampled_from(names)))) for query in names}
    causal = {query: " ".join(draw(st.sets(st.sampled_from(row.split())))) for query, row in reads.items() if row}
    lengths = [draw(st.integers(1, 5)) for _ in names]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    padded = draw(st.booleans())
    spans = [
        Span(n, s, torch.rand(2, s, generator=generator) > 0.3 if padded else None)
        for n, s in zip(names, lengths, strict=True)
    ]
    kv_heads = draw(st.sampled_from([1, 2, 4]))
    asking = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    mask = Visibility(reads, causal).mask(asking, spans)
    queries, keys = mask.dense.shape[-2], sum(lengths)
    make = lambda heads, tokens: torch.randn(2, heads, tokens, 16, generator=generator)  # noqa: E731
    return make(4, queries), make(kv_heads, keys), make(kv_heads, keys), mask


def by_hand(query, key, value, mask, softcap):
    """Attention written out row by row, in float64."""
    out = torch.zeros(query.shape, dtype=torch.float64)
    dense = mask.dense.expand(query.shape[0], 1, -1, -1)
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            shared = h // (query.shape[1] // key.shape[1])
            for i in range(query.shape[2]):
                seen = dense[b, 0, i]
                if seen.any():
                    logits = key[b, shared, seen].double() @ query[b, h, i].double() / 4
                    if softcap:
                        logits = softcap * torch.tanh(logits / softcap)
                    out[b, h, i] = logits.softmax(0) @ value[b, shared, seen].double()
    return out.float()


@settings(max_examples=40, deadline=None)
@given(cases())
def test_backends_agree_with_attention_by_hand(case):
    expected = by_hand(*case, softcap=None)
    for backend in ("eager", "sdpa", "flex"):
        torch.testing.assert_close(attend(*case, backend=backend), expected, atol=1e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(cases())
def test_soft_cap_agrees_where_it_is_known(case):
    expected = by_hand(*case, softcap=0.5)
    for backend in ("eager", "flex", "auto"):
        torch.testing.assert_close(attend(*case, softcap=0.5, backend=backend), expected, atol=1e-5, rtol=0)


def small_case(**tensor):
    mask = Visibility({"a": "a", "b": ""}).mask(["a", "b"], [Span("a", 3), Span("b", 2)])
    return *(torch.randn(1, 2, 5, 8, **tensor) for _ in range(3)), mask


def test_a_row_that_reads_nothing_is_zero_and_has_finite_gradients():
    for backend in ("eager", "sdpa"):
        query, key, value, mask = small_case(requires_grad=True)
        out = attend(query, key, value, mask, backend=backend)
        assert torch.equal(out[:, :, 3:], torch.zeros(1, 2, 2, 8))
        out.square().sum().backward()
        for tensor in (query, key, value):
            assert tensor.grad.isfinite().all()
        assert query.grad[:, :, 3:].abs().max() == 0
        assert value.grad[:, :, :3].abs().max() > 0


def test_sdpa_refuses_a_soft_cap():
    with pytest.raises(ValueError, match="soft cap"):
        attend(*small_case(), softcap=50.0, backend="sdpa")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [None, 50.0])
def test_auto_can_do_what_is_asked_and_has_a_backward(dtype, softcap):
    query, key, value, mask = small_case(requires_grad=True, dtype=dtype)
    attend(query, key, value, mask, softcap=softcap).sum().backward()
    assert query.grad.isfinite().all()
    assert query.grad.abs().max() > 0


def test_weights_sum_to_one_or_to_nothing():
    query, key, _, mask = small_case()
    sums = attention_weights(query, key, mask).sum(-1)
    torch.testing.assert_close(sums, torch.tensor([1.0, 1, 1, 0, 0]).expand_as(sums))
