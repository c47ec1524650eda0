"""One policy's part of the analysis: everything is measured frame by frame, and then summed up."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fathom.analysis.attention import QUERIES, Looking, measures
from fathom.analysis.estimate import mean_over_frames
from fathom.analysis.gradcam import GradCam
from fathom.analysis.removal import METHODS, Method, Removal, Where, draw_tokens
from fathom.analysis.result import Layers, PolicyGrounding, Removed
from fathom.analysis.sight import Sight
from fathom.data.batch import Batch
from fathom.evaluation import Rate
from fathom.mixture import Watcher

Regions = dict[str, Bool[Tensor, "batch tokens"]]
"""The region's tokens, for each grid by its name."""

Chunk = Float[Tensor, "batch horizon own"]

OF_HEAT = ("share", "pointing")
"""The measures that say something of a heat map, whose scale means nothing."""


class Measuring:
    """Measures one policy, batch by batch.

    Args:
        sight: of the policy.
        layers: from which tokens are removed.
        rates: shares of the region's tokens that are removed.
        seed: of the removed tokens.
        advance: called after each pass, of which a batch has :attr:`passes`.
    """

    def __init__(
        self,
        sight: Sight,
        layers: list[int],
        rates: tuple[float, ...],
        seed: int,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self.sight, self.layers, self.rates, self.seed, self.advance = sight, layers, rates, seed, advance
        self.found: dict[tuple[Any, ...], list[Float[Tensor, "batch numbers"]]] = {}
        self.heat: list[dict[str, Float[Tensor, "layers side side"]]] = []

    @property
    def passes(self) -> int:
        """How often a batch goes through the policy."""
        return 2 + 2 * len(self.layers) * len(self.rates) * len(METHODS)

    def measure(self, batch: Batch, noise: Float[Tensor, "batch horizon action"], region: Regions) -> None:
        """Measure on some frames; ``noise`` is where a flow starts, whatever is removed."""
        policy = self.sight.policy
        if policy.normalization is None or batch.index is None:
            raise ValueError("a policy without normalisation, or frames without their numbers")
        inputs = policy.prepare(batch)
        recorded, counts = policy.normalization.actions.normalize(batch.actions), ~batch.action_is_pad

        def run(watcher: Watcher) -> Chunk:
            with self.sight.mixture.watched(watcher):
                chunk = self.sight.chunk(inputs, noise).float()
            self.advance()
            return chunk[..., : recorded.shape[-1]]

        with torch.no_grad():
            looking = Looking(self.sight, inputs.text_valid)
            untouched = run(looking)
            error = _distance(untouched, recorded, counts)
            self._note(("untouched",), error)
            self._note_attention(looking, region)
            for key, removal in self._removals(region, batch.index):
                chunk = run(removal)
                self._note(("change", *key), _distance(chunk, untouched, counts))
                self._note(("error", *key), _distance(chunk, recorded, counts))
                self._note(("harm", *key), _distance(chunk, recorded, counts) - error)
        with torch.enable_grad():
            cam = GradCam(self.sight)
            self._note_heat(cam.maps(run(cam)), region)

    def summed_up(self, label: str, episodes: Int[np.ndarray, " frames"], shown: list[int]) -> PolicyGrounding:
        """Means over all frames so far.

        Args:
            label: tells the policy from others.
            episodes: of the frames.
            shown: the frames whose heat maps are wanted.
        """
        rates = {
            key: mean_over_frames(torch.cat(values).double().numpy(), episodes) for key, values in self.found.items()
        }
        attention: dict[str, dict[str, dict[str, Layers]]] = {}
        for query, grid, measure in (key[1:] for key in rates if key[0] == "attention"):
            own = attention.setdefault(query, {}).setdefault(grid, {})
            own[measure] = rates["attention", query, grid, measure]
        gradcam: dict[str, dict[str, Layers]] = {}
        for grid, measure in (key[1:] for key in rates if key[0] == "gradcam"):
            gradcam.setdefault(grid, {})[measure] = rates["gradcam", grid, measure]
        removed = [
            Removed(method, where, rate, layer, *(_only(rates[name, *key]) for name in ("change", "error", "harm")))
            for key in (key[1:] for key in rates if key[0] == "change")
            for where, rate, method, layer in [key]
        ]
        return PolicyGrounding(
            label=label,
            title=self.sight.title,
            layers=len(self.sight.place_of),
            sides={grid.name: grid.side for grid in self.sight.grids},
            area={grid.name: torch.cat(self.found["area", grid.name]).mean().item() for grid in self.sight.grids},
            attention=attention,
            gradcam=gradcam,
            error=_only(rates["untouched",]),
            removed=removed,
            heat=[{name: maps.numpy() for name, maps in self.heat[frame].items()} for frame in shown],
        )

    def _removals(
        self, region: Regions, index: Int[Tensor, " batch"]
    ) -> Iterator[tuple[tuple[Where, float, Method, int], Removal]]:
        """Every point of the sensitivity curves, and what removes its tokens."""
        seeds = [self.seed * 1_000_003 + number for number in index.tolist()]
        for (where, rate), tokens in draw_tokens(region, self.rates, seeds).items():
            for method in METHODS:
                for layer in self.layers:
                    yield (where, rate, method, layer), Removal(self.sight, tokens, layer, method)

    def _note_attention(self, looking: Looking, region: Regions) -> None:
        for grid in self.sight.grids:
            self._note(("area", grid.name), region[grid.name].float().mean(1, keepdim=True))
            for query in (query for query in QUERIES if self.sight.reads(query, grid)):
                for measure, values in measures(looking.maps(query, grid), region[grid.name]).items():
                    self._note(("attention", query, grid.name, measure), values)

    def _note_heat(self, maps: dict[str, Float[Tensor, "batch layers tokens"]], region: Regions) -> None:
        squares = {}
        for grid in self.sight.grids:
            found = measures(maps[grid.name], region[grid.name])
            for measure in OF_HEAT:
                self._note(("gradcam", grid.name, measure), found[measure])
            squares[grid.name] = maps[grid.name].unflatten(2, (grid.side, grid.side)).cpu()
        rows = len(next(iter(squares.values())))
        self.heat += [{name: square[row] for name, square in squares.items()} for row in range(rows)]

    def _note(self, key: tuple[Any, ...], values: Float[Tensor, "batch numbers"]) -> None:
        self.found.setdefault(key, []).append(values.detach().float().cpu())


def _distance(chunk: Chunk, other: Chunk, counts: Bool[Tensor, "batch horizon"]) -> Float[Tensor, "batch 1"]:
    """Mean distance of the actions over the steps that count."""
    wrong = (chunk - other).abs().mean(-1) * counts
    return (wrong.sum(1) / counts.sum(1).clamp(min=1))[:, None]


def _only(rates: list[Rate | None]) -> Rate:
    (rate,) = rates
    if rate is None:
        raise ValueError("the mean of what is not a number")
    return rate
