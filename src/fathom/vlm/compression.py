"""Fewer tokens: the low frequencies of a grid of tokens."""

import math
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Size = TypeVar("Size", int, Tensor)


def compressed(size: Size, factor: int) -> Size:
    """How many rows (or columns) are left of ``size``: a ``factor``-th, rounded up."""
    return -(-size // factor)


def compress(
    tokens: Float[Tensor, "tokens width"], height: int, width: int, factor: int
) -> Float[Tensor, "fewer width"]:
    """A smaller grid of tokens with the low spatial frequencies of the larger one.

    The discrete cosine transform of the grid, cut to its corner of low frequencies and transformed back at the smaller
    size (in the manner of Fourier-VLM, SPEC §2). A grid of equal tokens keeps their value; factor 1 changes nothing.

    Args:
        tokens: row by row, ``height * width`` of them.
        factor: how many times fewer rows and columns.
    """
    if factor == 1:
        return tokens
    rows, columns = (_low_pass(size, compressed(size, factor)).to(tokens.device) for size in (height, width))
    grid = tokens.float().unflatten(0, (height, width))
    return torch.einsum("ah,bw,hwd->abd", rows, columns, grid).flatten(0, 1).to(tokens.dtype)


def _low_pass(size: int, kept: int) -> Float[Tensor, "kept size"]:
    """From ``size`` samples to the ``kept`` samples that have the same first ``kept`` cosines."""
    return math.sqrt(kept / size) * _cosines(kept).T @ _cosines(size)[:kept]


def _cosines(size: int) -> Float[Tensor, "size size"]:
    """The orthonormal DCT-II: row k is the cosine of frequency k."""
    k, n = torch.arange(size)[:, None], torch.arange(size)[None, :]
    waves = torch.cos(math.pi * (n + 0.5) * k / size) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves
