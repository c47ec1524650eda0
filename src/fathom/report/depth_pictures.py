"""Depth on held-out frames, side by side (the paper's Figure 3), and how far the prediction is off."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter
from numpy.typing import NDArray
from torch import Tensor

from fathom.data.dataset import LeRobotDataset, open_dataset
from fathom.depth.depth_map import LogRange
from fathom.depth.metrics import DepthError, depth_error
from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.policies import Policy

from .figures import COLOURS, style, to_png

COLUMNS = ("camera", "true depth", "reconstructed", "predicted")
TICKS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0)

Map = Float[Tensor, "1 height width"]


@dataclass(frozen=True)
class Row:
    """One frame.

    Attributes:
        instruction: of its episode.
        image: uint8 (H, W, 3).
        depth: the true, the reconstructed and the predicted depth in metres; NaN where none was measured.
    """

    instruction: str
    image: NDArray[np.uint8]
    depth: tuple[Map, Map, Map]


@dataclass(frozen=True)
class DepthPictures:
    """Some frames to look at, and the prediction's error over more of them, within the tokenizer's range.

    ``depth_range`` is ``None`` where depth is relative.
    """

    rows: list[Row]
    error: DepthError
    frames: int
    depth_range: LogRange | None


@torch.no_grad()
def predict(policy: Policy, dataset_path: Path, split: str, *, rows: int = 4, frames: int = 64) -> DepthPictures:
    """Let a policy with a depth expert predict the depth of a split's frames.

    Args:
        rows: frames to show: the middle of that many episodes, of as many tasks as possible.
        frames: frames to measure on, spread evenly over all of the split.
    """
    dataset = open_dataset(dataset_path, cameras=policy.config.cameras, depth=True, split=split)
    shown = _one_per_task(dataset)[:rows]
    spread = torch.linspace(0, len(dataset) - 1, min(frames, len(dataset))).long().tolist()
    true, predicted = [], []
    for begin in range(0, len(spread), 16):
        maps = _maps(policy, dataset, spread[begin : begin + 16])
        true.append(maps[0])
        predicted.append(maps[2])
    truth = torch.cat(true)
    config = _tokenizer(policy).config
    error = depth_error(torch.cat(predicted), truth, truth.isfinite(), config.kind)
    columns = _maps(policy, dataset, shown)
    batch = dataset.batch(shown)
    images = batch.images["main"].movedim(1, -1).numpy()
    return DepthPictures(
        [
            Row(instruction, image, (a, b, c))
            for instruction, image, a, b, c in zip(batch.instruction, images, *columns, strict=True)
        ],
        error,
        len(spread),
        config.depth_range,
    )


def figure(rows: Sequence[Row], *, metric: bool = True) -> Figure:
    """Camera, true depth, the tokenizer's reconstruction and the policy's prediction of every row, on one scale."""
    low, high = _scale(rows)
    scale = LogNorm(low, high)
    with style():
        drawn = Figure(figsize=(7.2, 1.72 * len(rows) + 0.8), layout=ConstrainedLayoutEngine(rect=(0, 0, 1, 0.985)))
        grid = drawn.subplots(len(rows), len(COLUMNS), squeeze=False)
        for axes, title in zip(grid[0], COLUMNS, strict=True):
            axes.set_title(title, fontsize=10, color=COLOURS["ink"])
        for line, row in zip(grid, rows, strict=True):
            line[0].set_ylabel(fill(row.instruction, 18), fontsize=9)
            line[0].imshow(row.image, interpolation="none")
            for axes, depth in zip(line[1:], row.depth, strict=True):
                picture = axes.imshow(
                    depth[0].numpy(), cmap="viridis_r" if metric else "viridis", norm=scale, interpolation="none"
                )
            for axes in line:
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
        bar = drawn.colorbar(picture, ax=grid, location="bottom", aspect=50, fraction=0.05, pad=0.02, extend="both")
        bar.set_label("depth in metres" if metric else "relative inverse depth")
        bar.outline.set_visible(False)
        bar.ax.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= high]))
        bar.ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        bar.ax.xaxis.set_minor_locator(NullLocator())
        bar.ax.xaxis.set_minor_formatter(NullFormatter())
    return drawn


def draw(rows: Sequence[Row], dpi: int = 160, *, metric: bool = True) -> bytes:
    """The same as a PNG, for a README."""
    return to_png(figure(rows, metric=metric), dpi)


def _scale(rows: Sequence[Row]) -> tuple[float, float]:
    """The nearest and the farthest depth that is told apart; what saturates at an end of the range does not count."""
    true = torch.cat([row.depth[0].flatten() for row in rows])
    true = true[true.isfinite()]
    inner = true[(true > 1.02 * true.min()) & (true < 0.98 * true.max())]
    low, high = np.percentile(inner if len(inner) else true, [1, 99]).tolist()
    return low, max(high, 1.01 * low)


def _maps(policy: Policy, dataset: LeRobotDataset, frames: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """True, reconstructed and predicted depth, at the tokenizer's size and within its range."""
    tokenizer = _tokenizer(policy)
    batch = dataset.batch(frames).to(policy.device)
    assert batch.depth is not None
    true = tokenizer.true_depth(batch.depth)
    rebuilt = tokenizer.reconstruct(batch.depth)
    return true.cpu(), rebuilt.cpu(), policy.predict_depth(batch).cpu()


def _tokenizer(policy: Policy) -> DepthTokenizer:
    if policy.depth_tokenizer is None:
        raise UserError("this policy was trained without a depth expert: it predicts no depth")
    return policy.depth_tokenizer


def _one_per_task(dataset: LeRobotDataset) -> list[int]:
    """The middle frame of each episode: first one of every task, then the rest."""
    begin, seen = 0, set[int]()
    first: list[int] = []
    rest: list[int] = []
    for episode in dataset.episodes:
        middle = begin + episode.length // 2
        begin += episode.length
        task = int(dataset.columns["task_index"][middle])
        (rest if task in seen else first).append(middle)
        seen.add(task)
    return first + rest
