"""Depth before and after tokenizers: some frames as they are, as they come back, and where the two differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter
from torch import Tensor

from fathom.data.dataset import LeRobotDataset
from fathom.depth.depth_map import DepthKind
from fathom.depth.metrics import LEAST_DISPARITY
from fathom.depth.tokenizer import DepthTokenizer
from fathom.training.tokenizer import check_kind, open_depth

from .figures import COLOURS, style, to_png

WORST = 0.5
"""The relative error from which on the picture gets no brighter."""

TICKS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0)

BAR: Any = {"aspect": 60, "fraction": 0.03, "pad": 0.01}

Maps = Float[Tensor, "rows 1 size size"]


@dataclass(frozen=True)
class TokenizerPictures:
    """Some frames' depth.

    Attributes:
        true: NaN where it is not known.
        rebuilt: by each tokenizer, by its name.
        kind: of the depth.
    """

    true: Maps
    rebuilt: Mapping[str, Maps]
    kind: DepthKind

    def error(self, name: str) -> Maps:
        """The absolute relative error of one tokenizer, measured as :func:`~fathom.depth.metrics.depth_error` does."""
        least = LEAST_DISPARITY if self.kind == "relative_inverse" else 0.0
        true, rebuilt = self.true.clamp(min=least), self.rebuilt[name].clamp(min=least)
        return (rebuilt - true).abs() / true


@torch.no_grad()
def rebuild(tokenizers: Mapping[str, DepthTokenizer], dataset: LeRobotDataset, rows: int = 4) -> TokenizerPictures:
    """Take the middle frames of ``rows`` episodes, spread over the dataset, through tokenizers of one picture size.

    Raises:
        UserError: the dataset's depth is of another kind than a tokenizer's.
    """
    for tokenizer in tokenizers.values():
        check_kind(tokenizer.config, dataset)
    name = dataset.depth_feature
    assert name is not None  # it was opened with depth
    depth = torch.from_numpy(np.stack([dataset.picture(name, frame) for frame in _middles(dataset, rows)]))
    first = next(iter(tokenizers.values()))
    rebuilt = {name: tokenizer.reconstruct(depth) for name, tokenizer in tokenizers.items()}
    return TokenizerPictures(first.true_depth(depth), rebuilt, first.config.kind)


def figure(pictures: TokenizerPictures) -> Figure:
    """For every frame its depth, true and as it comes back, and how far that is off.

    The error of one tokenizer stands beside its depth, those of several stand beneath theirs.
    """
    names, count = list(pictures.rebuilt), len(pictures.true)
    beside = len(names) == 1
    lines, columns = (count, 3) if beside else (2 * count, 1 + len(names))
    side = min(1.9, 7.6 / columns)
    with style():
        layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, hspace=0, wspace=0)
        drawn = Figure(figsize=(side * columns + 0.3, side * lines + 1.1), layout=layout)
        grid = drawn.subplots(lines, columns, squeeze=False)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, title in zip(grid[0], ["true", *names, *(["error"] if beside else [])], strict=True):
            axes.set_title(title, fontsize=10, color=COLOURS["ink"])
        for row in range(count):
            depths, errors = (grid[row, :2], grid[row, 2:]) if beside else (grid[2 * row], grid[2 * row + 1, 1:])
            depth, error = _draw(pictures, row, list(depths), list(errors))
        depth_bar = drawn.colorbar(depth, ax=grid, location="bottom", extend="both", **BAR)
        depth_bar.set_label("depth in metres" if pictures.kind == "metric" else "relative inverse depth", fontsize=9)
        error_bar = drawn.colorbar(error, ax=grid, location="bottom", extend="max", **BAR)
        error_bar.set_label("absolute relative error", fontsize=9)
        for bar in (depth_bar, error_bar):
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=8)
            bar.ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            bar.ax.xaxis.set_minor_formatter(NullFormatter())
        if pictures.kind == "metric":
            low, high = depth.get_clim()
            depth_bar.ax.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= high]))
            depth_bar.ax.xaxis.set_minor_locator(NullLocator())
    return drawn


def _draw(
    pictures: TokenizerPictures, row: int, depths: Sequence[Axes], errors: Sequence[Axes]
) -> tuple[AxesImage, AxesImage]:
    """One frame; returns a picture of depth and one of an error, for the scales."""
    colours = "viridis_r" if pictures.kind == "metric" else "viridis"  # what is near is bright
    scale = _scale(pictures)
    for axes, maps in zip(depths, [pictures.true, *pictures.rebuilt.values()], strict=True):
        depth = axes.imshow(maps[row, 0].numpy(), cmap=colours, norm=scale, interpolation="none")
    for axes, name in zip(errors, pictures.rebuilt, strict=True):
        off = pictures.error(name)[row, 0].numpy()
        error = axes.imshow(off, cmap="magma", vmin=0, vmax=WORST, interpolation="none")
    return depth, error


def draw(
    tokenizers: Mapping[str, DepthTokenizer], dataset_path: Path, split: str | None, *, rows: int = 4, dpi: int = 160
) -> bytes:
    """The figure of a split's frames (``None``: of all) as a PNG.

    Raises:
        UserError: the dataset has no depth, or depth of another kind.
    """
    return to_png(figure(rebuild(tokenizers, open_depth(dataset_path, split), rows)), dpi)


def _scale(pictures: TokenizerPictures) -> Normalize:
    """From the nearest to the farthest depth but for a hundredth at either end."""
    if pictures.kind == "relative_inverse":
        return Normalize(0, 1)
    known = pictures.true[pictures.true.isfinite()].numpy()
    low, high = np.percentile(known, [1, 99]) if known.size else (1.0, 2.0)
    return LogNorm(low, max(high, 1.01 * low))


def _middles(dataset: LeRobotDataset, rows: int) -> Sequence[int]:
    ends = np.cumsum([episode.length for episode in dataset.episodes])
    middles = [
        int(end) - episode.length + episode.length // 2 for end, episode in zip(ends, dataset.episodes, strict=True)
    ]
    chosen = np.linspace(0, len(middles) - 1, min(rows, len(middles))).astype(int)
    return [middles[episode] for episode in chosen]
