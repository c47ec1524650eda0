"""Taking tokens of the picture out of a policy, from a layer on."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fathom.analysis.sight import Grid, Sight
from fathom.mixture import Pass

Method = Literal["zero", "mean", "knockout"]
METHODS: tuple[Method, ...] = get_args(Method)
"""``zero``: the tokens are zeros; ``mean``: each is the mean of those tokens of the picture that stay; ``knockout``:
nobody reads them."""

Where = Literal["region", "control"]
"""Whether tokens of the region are removed, or as many elsewhere."""

Tokens = Bool[Tensor, "batch tokens"]
Hidden = Float[Tensor, "batch now width"]


class Removal:
    """Removes tokens of the picture from a layer on, in this and in every later one.

    What earlier layers read of them stays read. Zeros and means are put back before every layer: else the others'
    contents and what a policy adds on the way (DeepStack) would fill the tokens again.

    Args:
        sight: of the policy.
        tokens: which ones, for each grid by its name. What shows a place should go from all of them.
        layer: the first layer that is without them.
    """

    def __init__(self, sight: Sight, tokens: Mapping[str, Tokens], layer: int, method: Method) -> None:
        self.sight, self.tokens, self.method = sight, tokens, method
        self.begin = sight.place_of[layer]

    def before(self, passing: Pass) -> None:
        """See :class:`Watcher`."""
        for grid in self.sight.grids:
            if grid.name in self.tokens and grid.block in passing.blocks and passing.place >= self.begin:
                self._remove(passing, grid)

    def after(self, passing: Pass) -> None:
        """See :class:`Watcher`."""

    def _remove(self, passing: Pass, grid: Grid) -> None:
        gone = grid.put(passing, self.tokens[grid.name])
        if self.method == "knockout":
            if passing.place == self.begin:
                passing.hide({grid.block: gone})
            return
        hidden = passing.hidden(grid.block)
        value = 0.0 if self.method == "zero" else self._mean(passing, grid, hidden, gone)
        passing.add(grid.block, torch.where(gone[..., None], value - hidden, 0.0))

    def _mean(self, passing: Pass, grid: Grid, hidden: Hidden, gone: Tensor) -> Float[Tensor, "batch 1 width"]:
        there = grid.put(passing, torch.ones_like(self.tokens[grid.name])) & ~gone
        counts = there[..., None].to(hidden)
        return (hidden * counts).sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp(min=1)


def draw_tokens(region: Tokens, rates: Sequence[float], seeds: Sequence[int]) -> dict[tuple[Where, float], Tokens]:
    """A share of each row's region, and as many tokens elsewhere.

    A larger share holds the smaller ones; at least one token is taken. Each row is drawn with a seed of its own, so
    that grids of one size lose the same places.

    Raises:
        ValueError: a region covers more than half of the tokens, so that there is no control of its size.
    """
    if bool((2 * region.sum(1) > region.shape[1]).any()):
        raise ValueError("a region covers more than half of the tokens")
    scores = torch.stack(
        [torch.rand(region.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    ).to(region.device)
    drawn: dict[tuple[Where, float], Tokens] = {}
    for rate in rates:
        counts = (rate * region.sum(1)).round().long().clamp(min=1)
        drawn["region", rate] = _first(scores, region, counts)
        drawn["control", rate] = _first(scores, ~region, counts)
    return drawn


def _first(scores: Float[Tensor, "batch tokens"], among: Tokens, counts: Tensor) -> Tokens:
    """The so many tokens of each row with the smallest scores."""
    ranks = scores.masked_fill(~among, float("inf")).argsort(1).argsort(1)
    return among & (ranks < counts[:, None])
