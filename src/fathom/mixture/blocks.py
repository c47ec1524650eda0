"""A block: a named run of tokens."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """A named run of tokens on its way into the mixture.

    Attributes:
        name: what the visibility table calls it (``image``, ``text``, ``depth``, ``action`` …).
        hidden: the tokens' embeddings, in the width of the stream that carries the block.
        positions: each token's position, handed to the stream's own position encoding.
        valid: False for padding, which nobody reads; ``None`` when there is no padding.
    """

    name: str
    hidden: Float[Tensor, "batch tokens width"]
    positions: Int[Tensor, "batch tokens"]
    valid: Bool[Tensor, "batch tokens"] | None = None

    def __len__(self) -> int:
        return self.hidden.shape[1]

    @property
    def span(self) -> "Span":
        """What a mask needs to know of this block."""
        return Span(self.name, len(self), self.valid)


@dataclass(frozen=True)
class Span:
    """A block without its contents: its name, its length and which of its tokens are valid."""

    name: str
    length: int
    valid: Bool[Tensor, "batch tokens"] | None = None
