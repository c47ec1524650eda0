"""What a pass leaves behind for later queries."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fathom.mixture.blocks import Span


@dataclass(frozen=True)
class CachedStep:
    """The keys and values that one joint step leaves behind for later queries."""

    spans: tuple[Span, ...]
    key: Float[Tensor, "batch kv_heads tokens dim"]
    value: Float[Tensor, "batch kv_heads tokens dim"]

    def repeat(self, times: int) -> "CachedStep":
        """The same for a batch in which every row stands ``times`` times in a row."""

        def repeat(tensor: Tensor) -> Tensor:
            return tensor.repeat_interleave(times, 0)

        spans = (Span(s.name, s.length, None if s.valid is None else repeat(s.valid)) for s in self.spans)
        return CachedStep(tuple(spans), repeat(self.key), repeat(self.value))


@dataclass(frozen=True)
class Cache:
    """What a pass leaves behind, one entry per joint step; ``None`` where none of its streams took part."""

    steps: tuple[CachedStep | None, ...]

    def repeat(self, times: int) -> "Cache":
        """The cache for a batch in which every row stands ``times`` times in a row."""
        return Cache(tuple(step and step.repeat(times) for step in self.steps))

    @property
    def blocks(self) -> frozenset[str]:
        """The names of the cached blocks."""
        return frozenset(span.name for step in self.steps if step for span in step.spans)
