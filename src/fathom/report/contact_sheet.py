"""The worst frames of a depth check, side by side."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from fathom.annotation.check import Check, Frame

from .figures import COLOURS, style, to_png

COLUMNS = ("camera", "reference", "estimate, aligned", "relative error")


def contact_sheet(check: Check, dpi: int = 110) -> bytes:
    """A PNG with a row for each of the worst frames: picture, reference, aligned estimate, and where they differ."""
    with style():
        figure = Figure(figsize=(7.2, 1.8 * len(check.worst) + 0.5), layout="constrained")
        grid = figure.subplots(len(check.worst), len(COLUMNS), squeeze=False)
        for axes, title in zip(grid[0], COLUMNS, strict=True):
            axes.set_title(title, fontsize=10, color=COLOURS["ink"])
        for line, frame in zip(grid, check.worst, strict=True):
            _draw(line, frame)
            for axes in line:
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
    return to_png(figure, dpi)


def _draw(line: Sequence, frame: Frame) -> None:  # type: ignore[type-arg]
    known = (frame.truth > 0) & (frame.estimate > 0)
    truth, estimate = (np.where(known, depth, np.nan) for depth in (frame.truth, frame.estimate))
    low, high = np.nanpercentile(truth, [1, 99])
    scale = LogNorm(low, max(high, 1.01 * low))
    line[0].set_ylabel(f"frame {frame.index}\nAbsRel {frame.abs_rel:.3f}", fontsize=9)
    if frame.picture is not None:
        line[0].imshow(frame.picture, interpolation="none")
    for axes, depth in zip(line[1:3], (truth, estimate), strict=True):
        axes.imshow(depth, cmap="viridis_r", norm=scale, interpolation="none")
    line[3].imshow(np.abs(estimate - truth) / truth, cmap="magma", vmin=0, vmax=0.5, interpolation="none")
