"""A block: a named run of tokens."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """A named run of tokens on its way into the mixture.

    Attributes:
        name: what the visibility table calls it (``image``, ``text``, ``depth``, ``action`` …).
        hidden: the tokens' embeddings, in the width of the stream that carries the block.
        positions: each token's position, handed to the stream's own position encoding: a number, or several where the
            stream has several axes.
        valid: False for padding, which nobody reads; ``None`` when there is no padding.
    """

    name: str
    hidden: Float[Tensor, "batch tokens width"]
    positions: Num[Tensor, "batch tokens *axes"]
    valid: Bool[Tensor, "batch tokens"] | None = None

    def __len__(self) -> int:
        return self.hidden.shape[1]

    @property
    def span(self) -> "Span":
        """What a mask needs to know of this block."""
        return Span(self.name, len(self), self.valid)

    def with_hidden(self, hidden: Float[Tensor, "batch tokens width"]) -> "Block":
        """The block with other contents."""
        return Block(self.name, hidden, self.positions, self.valid)

    def without(self, tokens: Bool[Tensor, "batch tokens"]) -> "Block":
        """The block with these tokens as padding, which nobody reads."""
        valid = ~tokens if self.valid is None else self.valid & ~tokens
        return Block(self.name, self.hidden, self.positions, valid)

    def select(self, index: Int[Tensor, "batch kept"]) -> "Block":
        """The block with only the tokens that ``index`` names, in its order."""
        valid = None if self.valid is None else self.valid.gather(1, index)
        return Block(self.name, _take(self.hidden, index), _take(self.positions, index), valid)


@dataclass(frozen=True)
class Span:
    """A block without its contents: its name, its length and which of its tokens are valid."""

    name: str
    length: int
    valid: Bool[Tensor, "batch tokens"] | None = None


def _take(values: Num[Tensor, "batch tokens *axes"], index: Int[Tensor, "batch kept"]) -> Tensor:
    spread = index.view(*index.shape, *(1,) * (values.dim() - 2))
    return torch.take_along_dim(values, spread, 1)
