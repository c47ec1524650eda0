"""A stream with a head space of its own, some of whose layers join others through learned maps."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

from fathom.mixture.stream import Stream, StreamLayer

Positions = Literal["fractional", "native", "none"]
"""How the layers that join others know where their tokens are: by the others' rotary positions, by their own before the
alignment, or not at all."""


class VisionStream(Stream, Protocol):
    """A vision transformer as a stream."""

    @property
    def prefix_tokens(self) -> int:
        """How many of its tokens stand before the patches."""
        ...

    def embed(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens width"]:
        """The tokens that go into the first layer."""
        ...


class Alignment(nn.Module):
    """The learned maps of one layer from its own head space into the shared one, and back.

    Args:
        width: of the layer's own heads together.
        heads: of the shared space.
        kv_heads: that keys and values are mapped to.
        head_dim: of one shared head.
    """

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.query = nn.Linear(width, heads * head_dim, bias=False)
        self.key = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.value = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.output = nn.Linear(heads * head_dim, width, bias=False)

    def into_shared(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (batch, heads, tokens, dim) in the shared head space."""
        maps = ((self.query, query), (self.key, key), (self.value, value))
        query, key, value = (self._heads(linear(own.transpose(1, 2).flatten(2))) for linear, own in maps)
        return query, key, value

    def _heads(self, joined: Float[Tensor, "batch tokens heads*dim"]) -> Float[Tensor, "batch heads tokens dim"]:
        return joined.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


@dataclass(frozen=True)
class EncodedPositions:
    """What the layers of an :class:`AlignedStream` know of the positions.

    Attributes:
        alone: for a layer that runs alone.
        before: for one that joins others, before the alignment.
        after: for the same, after it: the rotary cosine and sine of the shared head space.
    """

    alone: Any
    before: Any
    after: tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class AlignedLayer:
    """A layer that runs alone, or joins others through an alignment."""

    own: StreamLayer
    alignment: Alignment | None

    def project(
        self, hidden: Float[Tensor, "batch tokens width"], positions: EncodedPositions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`StreamLayer`."""
        if self.alignment is None:
            return self.own.project(hidden, positions.alone)
        query, key, value = self.alignment.into_shared(*self.own.project(hidden, positions.before))
        if positions.after is not None:
            query, key = apply_rotary_pos_emb(query, key, *positions.after)
        return query, key, value

    def finish(
        self, hidden: Float[Tensor, "batch tokens width"], attended: Float[Tensor, "batch tokens heads*dim"]
    ) -> Float[Tensor, "batch tokens width"]:
        """See :class:`StreamLayer`."""
        return self.own.finish(hidden, attended if self.alignment is None else self.alignment.output(attended))


class AlignedStream(nn.Module):
    """A vision transformer some of whose layers join a language model's attention.

    Args:
        own: the vision transformer.
        joining: which of its layers join others; the rest run alone in their own head space.
        alignment: sizes: see :class:`Alignment`.
        rotary: gives the shared head space's rotary cosine and sine; has no weights.
        positions: see :data:`Positions`.
    """

    def __init__(
        self,
        own: VisionStream,
        joining: Collection[int],
        *,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        rotary: nn.Module,
        positions: Positions,
    ) -> None:
        super().__init__()
        self.own = own
        self.alignments = nn.ModuleDict({str(i): Alignment(width, heads, kv_heads, head_dim) for i in joining})
        self.rotary = rotary
        self.mode: Positions = positions

    @property
    def layers(self) -> Sequence[AlignedLayer]:
        """See :class:`Stream`."""
        return [AlignedLayer(layer, self._alignment(str(index))) for index, layer in enumerate(self.own.layers)]

    def _alignment(self, layer: str) -> Alignment | None:
        return cast(Alignment, self.alignments[layer]) if layer in self.alignments else None

    def encode_positions(
        self, hidden: Float[Tensor, "batch tokens width"], positions: Float[Tensor, "batch tokens 5"]
    ) -> EncodedPositions:
        """Of positions in time, height and width among the others' tokens, and of the transformer's own (y, x)."""
        shared, own = positions.split([3, 2], -1)
        alone = self.own.encode_positions(hidden, own)
        after = self.rotary(hidden, shared.permute(2, 0, 1)) if self.mode == "fractional" else None
        return EncodedPositions(alone, alone if self.mode == "native" else None, after)

    def norm(self, hidden: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """See :class:`Stream`."""
        return self.own.norm(hidden)
