"""Grad-CAM for policies: where in the picture lies what the chunk is made of, layer by layer."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from fathom.analysis.attention import Maps
from fathom.analysis.sight import Grid, Sight
from fathom.mixture import Pass


class GradCam:
    """Watches a chunk being computed, and then asks the chunk for its gradient.

    Grad-CAM (Selvaraju et al. 2017) weighs each channel of a feature map by the mean gradient of a score with respect
    to it, and keeps what is positive: ``ReLU(sum_c w_c h_tc)`` with ``w_c = mean_t dy/dh_tc``. Here the feature map is
    what a layer reads of the picture, the hidden states ``h`` of a grid's tokens (t) before the layer, and the score
    ``y`` is half the squared norm of the normalised chunk: its gradient weighs every component of every action by how
    far it is from the middle of the robot's range. Which score the analysis of arXiv 2603.15618 takes is not told in
    the sources at hand: this one is our choice.

    Args:
        sight: of the policy.
    """

    def __init__(self, sight: Sight) -> None:
        self.sight = sight
        self._tapped: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def before(self, passing: Pass) -> None:
        """See :class:`Watcher`."""
        layer = self.sight.layer_at(passing.place)
        for grid in self.sight.grids:
            if layer is None or grid.block not in passing.blocks:
                continue
            if self.sight.takes_part(grid.block, passing.place):
                hidden = grid.of(passing, passing.hidden(grid.block)).detach()
                # The gradient of a zero that is added to the tokens is that of the tokens.
                zero = torch.zeros_like(hidden, requires_grad=True)
                passing.add(grid.block, grid.put(passing, zero))
                self._tapped[grid.name, layer] = hidden, zero

    def after(self, passing: Pass) -> None:
        """See :class:`Watcher`."""

    def maps(self, chunk: Float[Tensor, "batch horizon action"]) -> dict[str, Maps]:
        """For each grid its heat maps, by name; the chunk is the one that was watched."""
        zeros = [zero for _, zero in self._tapped.values()]
        gradients = torch.autograd.grad(chunk.float().square().sum() / 2, zeros, materialize_grads=True)
        heats = {
            key: heat(hidden, slope) for (key, (hidden, _)), slope in zip(self._tapped.items(), gradients, strict=True)
        }
        return {grid.name: self._stacked(grid, heats) for grid in self.sight.grids}

    def _stacked(self, grid: Grid, heats: Mapping[tuple[str, int], Tensor]) -> Maps:
        layers = [heats.get((grid.name, layer)) for layer in self.sight.place_of]
        like = next(layer for layer in layers if layer is not None)
        return torch.stack([like * float("nan") if layer is None else layer for layer in layers], 1)


def heat(
    hidden: Float[Tensor, "batch tokens width"], slope: Float[Tensor, "batch tokens width"]
) -> Float[Tensor, "batch tokens"]:
    """Grad-CAM of one layer; ``slope`` is the score's gradient with respect to ``hidden``."""
    weights = slope.float().mean(1, keepdim=True)
    return (weights * hidden.float()).sum(-1).relu()
