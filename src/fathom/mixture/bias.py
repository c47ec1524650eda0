"""A learned reluctance of some blocks to read others."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fathom.mixture.blocks import Span
from fathom.mixture.visibility import Visibility


class LogitBias(nn.Module):
    """A learned number for each joint step, added to the attention logits of some pairs of blocks.

    A new stream that joins a pretrained one is hardly read while the number is far below 0, and the pretrained one
    stays what it was.

    Args:
        pairs: which queries' logits for which keys it is added to.
        steps: the joint steps that have one, as places in the mixture's plan.
        start: its first value.
    """

    def __init__(self, pairs: Visibility, steps: Sequence[int], start: float) -> None:
        super().__init__()
        self.pairs, self.start = pairs, float(start)
        self.row = {step: row for row, step in enumerate(steps)}
        self.values = nn.Parameter(torch.full((len(steps),), self.start))

    def forward(self, step: int, queries: Sequence[str], keys: Sequence[Span]) -> Float[Tensor, "queries keys"] | None:
        """What is added in this step; ``None`` where nothing is."""
        if step not in self.row or not any(self.pairs.sees(query, key.name) for query in queries for key in keys):
            return None
        bare = [Span(key.name, key.length) for key in keys]
        meets = self.pairs.mask(queries, bare, device=self.values.device).dense[0, 0]
        # Chosen, not multiplied: minus infinity times zero is no number.
        return torch.where(meets, self.values[self.row[step]], 0.0)
