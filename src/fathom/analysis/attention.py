"""What the actions and the instruction read of the picture, layer by layer."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fathom.analysis.sight import ACTION, Grid, Sight
from fathom.mixture import Pass

QUERIES = (ACTION, "instruction")
"""Whose attention is measured. The instruction is every token of the text that is no padding: its words, and what the
text tokenizer puts around them (of Qwen's chat the end of the turn and the beginning of the answer)."""

Maps = Float[Tensor, "batch layers tokens"]
"""A value for each token of a grid in each layer; NaN in layers where the grid takes no part."""


class Looking:
    """Watches a chunk being computed.

    An attention map is that of AGVP (arXiv 2603.15618): averaged over the tokens that ask and over the heads, of the
    whole attention, so that what was read elsewhere is missing from its sum. Of a flow it is the mean over the steps.

    Args:
        sight: of the policy.
        text_valid: which tokens of the instruction are no padding.
    """

    def __init__(self, sight: Sight, text_valid: Bool[Tensor, "batch text"]) -> None:
        self.sight, self.text_valid = sight, text_valid
        self._seen: dict[tuple[str, str, int], list[Float[Tensor, "batch tokens"]]] = {}

    def before(self, passing: Pass) -> None:
        """See :class:`Watcher`."""

    @torch.no_grad()
    def after(self, passing: Pass) -> None:
        """See :class:`Watcher`."""
        sight, place = self.sight, passing.place - 1
        layer, (text, tokens) = sight.layer_at(place), sight.instruction
        if layer is None:
            return
        if ACTION in passing.blocks:
            self._take(ACTION, layer, passing.attention(ACTION).mean((1, 2)), passing)
        if text in passing.blocks:
            counts = self.text_valid[..., None].float()
            weights = passing.attention(text, tokens).mean(1)
            self._take("instruction", layer, (weights * counts).sum(1) / counts.sum(1).clamp(min=1), passing)

    def maps(self, query: str, grid: Grid) -> Maps:
        """The attention of ``query``, one of :data:`QUERIES`, on the tokens of a grid."""
        layers = [self._seen.get((query, grid.name, layer)) for layer in self.sight.place_of]
        like = next(seen[0] for seen in layers if seen)
        return torch.stack([torch.stack(seen).mean(0) if seen else like * float("nan") for seen in layers], 1)

    def _take(self, query: str, layer: int, row: Float[Tensor, "batch keys"], passing: Pass) -> None:
        for grid in self.sight.grids:
            if self.sight.reads(query, grid) and self.sight.takes_part(grid.block, passing.place - 1):
                read = grid.of(passing, row[:, passing.keys(grid.block)])
                self._seen.setdefault((query, grid.name, layer), []).append(read)


def measures(maps: Maps, region: Bool[Tensor, "batch tokens"]) -> dict[str, Float[Tensor, "batch layers"]]:
    """What a map says of a region.

    Returns:
        ``mass``: its sum over the picture, of the 1 that an attention has; ``region``: that over the region; ``share``:
        the second over the first; ``entropy``: of where in the picture it lies, 0 for one token and 1 for all alike;
        ``pointing``: 1 where its largest value lies in the region (the pointing game of Zhang et al. 2016), 0 where it
        does not or nothing is above 0. NaN where the map is.
    """
    inside = region[:, None]
    mass, own = maps.sum(-1), (maps * inside).sum(-1)
    spread = maps / mass[..., None].clamp(min=torch.finfo(maps.dtype).tiny)
    entropy = torch.special.entr(spread).sum(-1) / torch.log(torch.tensor(float(maps.shape[-1])))
    best = inside.expand_as(maps).gather(-1, maps.nan_to_num().argmax(-1, keepdim=True))[..., 0] & (mass > 0)
    return {
        "mass": mass,
        "region": own,
        "share": own / mass.clamp(min=torch.finfo(maps.dtype).tiny),
        "entropy": entropy,
        "pointing": torch.where(mass.isnan(), mass, best.to(mass)),
    }
