"""One attention over all streams' tokens, with three backends that agree."""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from fathom.mixture.visibility import Mask

Backend = Literal["auto", "eager", "sdpa", "flex"]


def attend(
    query: Float[Tensor, "batch heads queries dim"],
    key: Float[Tensor, "batch kv_heads keys dim"],
    value: Float[Tensor, "batch kv_heads keys dim"],
    mask: Mask,
    *,
    bias: Float[Tensor, "queries keys"] | None = None,
    softcap: float | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, "batch heads queries dim"]:
    """Each query's mean of the values that the mask lets it read; 0 where it may read nothing.

    Args:
        bias: added to the logits, before the soft cap.
        softcap: squash the logits to ``softcap * tanh(logits / softcap)`` before the softmax.
        backend: ``eager`` is the reference and does everything; ``sdpa`` is fastest and knows no soft cap; ``flex``
            does both at speed on a GPU but has no backward on a CPU; ``auto`` takes the fastest that can do it.

    Raises:
        ValueError: ``sdpa`` was asked for a soft cap.
    """
    if backend == "auto":
        backend = _fastest(query, softcap)
    if backend == "eager":
        weights = attention_weights(query, key, mask, bias=bias, softcap=softcap)
        return _fold(weights, key).to(value.dtype).matmul(value).view_as(query)
    if backend == "flex":
        score_mod = None if softcap is None and bias is None else _changed(bias, softcap)
        return _flex(query.is_cuda)(query, key, value, score_mod, mask.block_mask, enable_gqa=True)
    if softcap is not None:
        raise ValueError("the sdpa backend knows no soft cap: use eager or flex")
    seen = mask.dense if bias is None else torch.where(mask.dense, bias.to(query.dtype), float("-inf"))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, enable_gqa=True)


def attention_weights(
    query: Float[Tensor, "batch heads queries dim"],
    key: Float[Tensor, "batch kv_heads keys dim"],
    mask: Mask,
    *,
    bias: Float[Tensor, "queries keys"] | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "batch heads queries keys"]:
    """The attention map in fp32: rows sum to 1, or to 0 where the query may read nothing."""
    folded = _fold(query * query.shape[-1] ** -0.5, key) @ key.mT
    logits = folded.view(*query.shape[:3], key.shape[2])
    if bias is not None:
        logits = logits + bias
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    unread = ~mask.dense
    # A finite fill keeps a row that reads nothing free of NaN, in the gradient too.
    weights = logits.masked_fill(unread, torch.finfo(logits.dtype).min).softmax(-1, dtype=torch.float32)
    return weights.masked_fill(unread, 0.0)


def _fastest(query: Tensor, softcap: float | None) -> Backend:
    """What ``auto`` means here."""
    if query.is_cuda:
        return "sdpa" if softcap is None else "flex"
    # On a CPU the backward of sdpa is several times slower in bf16 than plain matrix products.
    return "eager" if softcap is not None or query.dtype == torch.bfloat16 else "sdpa"


def _fold(query: Tensor, key: Tensor) -> Tensor:
    """Lay the query heads that share a key head behind each other, so that the key need not be copied for each."""
    batch, heads, queries, dim = query.shape
    kv_heads = key.shape[1]
    return query.reshape(batch, kv_heads, heads // kv_heads * queries, dim)


def _changed(bias: Tensor | None, softcap: float | None) -> Callable[..., Tensor]:
    """What ``flex`` does to each logit, given the indices of its batch row, head, query and key."""

    def change(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        score = score if bias is None else score + bias[query, key]
        return score if softcap is None else softcap * torch.tanh(score / softcap)

    return change


@cache
def _flex(compiled: bool) -> Callable[..., Any]:
    """flex_attention is only fast compiled; on a CPU its plain form serves as a check."""
    return torch.compile(flex_attention) if compiled else flex_attention  # type: ignore[return-value]
