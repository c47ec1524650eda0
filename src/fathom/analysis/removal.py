"""Taking tokens of the picture out of a policy, from a layer on."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fathom.analysis.sight import Grid, Sight
from fathom.mixture import Pass

Method = Literal["zero", "mean", "knockout"]
METHODS: tuple[Method, ...] = get_args(Method)
"""``zero``: the tokens are zeros; ``mean``: each is the mean of those tokens of its own grid that stay; ``knockout``:
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


def draw_tokens(
    regions: Mapping[str, Tokens], rates: Sequence[float], seeds: Sequence[int]
) -> dict[tuple[Where, float], dict[str, Tokens]]:
    """A share of each row's region, and as many tokens elsewhere, in every grid.

    The places are drawn on the coarsest grid, and the tokens of a finer one go with the coarse token in whose place
    they lie: what one grid loses, no other shows. A larger share holds the smaller ones; at least one token is taken.
    Each row is drawn with a seed of its own.

    Args:
        regions: for each grid by its name, all of the same picture.

    Raises:
        ValueError: a region covers more than half of the tokens, so that there is no control of its size.
    """
    if any(bool((2 * region.sum(1) > region.shape[1]).any()) for region in regions.values()):
        raise ValueError("a region covers more than half of the tokens")
    coarsest = min(regions.values(), key=lambda region: region.shape[1])
    places = _random(coarsest, seeds)
    drawn: dict[tuple[Where, float], dict[str, Tokens]] = {}
    for where in get_args(Where):
        inside = where == "region"
        ranks = _ranks(places + (coarsest != inside))  # behind all others where the coarsest grid takes none
        for rate in rates:
            drawn[where, rate] = {
                name: _first(_finer(ranks, region, seeds), region == inside, _count(region, rate))
                for name, region in regions.items()
            }
    return drawn


def _count(region: Tokens, rate: float) -> Int[Tensor, " batch"]:
    return (rate * region.sum(1)).round().long().clamp(min=1)


def _finer(ranks: Int[Tensor, "batch coarse"], region: Tokens, seeds: Sequence[int]) -> Float[Tensor, "batch tokens"]:
    """For each token of a grid the rank of the coarse token in whose place it lies; at random among those of one."""
    coarse, side = math.isqrt(ranks.shape[1]), math.isqrt(region.shape[1])
    squares = ranks.float().unflatten(1, (1, coarse, coarse))
    return F.interpolate(squares, (side, side), mode="nearest-exact").flatten(1) + _random(region, seeds)


def _random(like: Tokens, seeds: Sequence[int]) -> Float[Tensor, "batch tokens"]:
    """A number in [0, 1) for each token, of each row from its own seed."""
    rows = [torch.rand(like.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(like.device)


def _first(scores: Float[Tensor, "batch tokens"], among: Tokens, counts: Int[Tensor, " batch"]) -> Tokens:
    """The so many tokens of each row with the smallest scores."""
    return among & (_ranks(scores.masked_fill(~among, float("inf"))) < counts[:, None])


def _ranks(scores: Float[Tensor, "batch tokens"]) -> Int[Tensor, "batch tokens"]:
    return scores.argsort(1).argsort(1)
