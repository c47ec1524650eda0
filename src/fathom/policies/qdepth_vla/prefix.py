"""What is computed once per observation."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from fathom.mixture import Cache


@dataclass(frozen=True)
class Prefix:
    """All that does not read the actions, run once per observation.

    Attributes:
        valid: which image and text tokens are no padding.
        cache: what the action tokens read.
        depth: the depth expert's output, where it was asked for.
    """

    valid: Bool[Tensor, "batch prefix"]
    cache: Cache
    depth: Float[Tensor, "batch tokens width"] | None = None

    def repeat(self, times: int) -> "Prefix":
        """The same for a batch in which every row stands ``times`` times in a row; without the depth."""
        return Prefix(self.valid.repeat_interleave(times, 0), self.cache.repeat(times))
