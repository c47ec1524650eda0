"""Figures of the layer-wise analysis."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from fathom.analysis import METHODS, PolicyGrounding, Removed
from fathom.analysis.result import Layers, Shown
from fathom.evaluation import Rate

from .figures import COLOURS, style

POLICY_COLOURS = ("blue", "orange", "green", "purple", "quiet")
METHOD_TITLES = {"zero": "Zero", "mean": "Mean", "knockout": "Knock-out"}
WORST = "knockout"
"""The method that leaves nothing of the tokens."""

_MEASURES = {
    "mass": "Mass on the picture",
    "share": "Share of the region",
    "entropy": "Entropy",
    "pointing": "Pointing",
}
_LINES = {"image": "-", "depth": (0, (1, 1.5)), "expert": (0, (5, 2))}
_SIDE = 96
"""Of one heat map, in pixels."""


def attention_figure(policies: Sequence[PolicyGrounding], query: str) -> Figure:
    """Mass, share of the region, entropy and pointing over the layers, a line for each policy and its grids."""
    with style():
        figure = Figure(figsize=(7.6, 5.2), layout="constrained")
        panels = figure.subplots(2, 2, sharex=True)
        for axes, (measure, title) in zip(panels.flat, _MEASURES.items(), strict=True):
            for place, policy in enumerate(policies):
                for grid, found in policy.attention.get(query, {}).items():
                    colour = COLOURS[POLICY_COLOURS[place % len(POLICY_COLOURS)]]
                    _line(axes, found[measure], colour, _LINES[grid], _name(policy, policies, grid))
                    if measure == "share":
                        axes.axhline(policy.area[grid], color=colour, linewidth=0.7, linestyle=_LINES[grid], alpha=0.6)
            axes.set_title(title, fontsize=10, loc="left", color=COLOURS["ink"])
            axes.set_ylim(0, 1.02 if measure in ("entropy", "pointing") else None)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in panels[1]:
            axes.set_xlabel("layer")
        _legend(figure, panels.flat[0])
    return figure


def heat_figure(policies: Sequence[PolicyGrounding]) -> Figure:
    """How much of the heat lies in the region, and how often its peak does."""
    with style():
        figure = Figure(figsize=(7.6, 2.9), layout="constrained")
        panels = figure.subplots(1, 2)
        titles = {"share": "Share of the heat in the region", "pointing": "Frames whose hottest token lies there"}
        for axes, (measure, title) in zip(panels, titles.items(), strict=True):
            for place, policy in enumerate(policies):
                colour = COLOURS[POLICY_COLOURS[place % len(POLICY_COLOURS)]]
                for grid, found in policy.gradcam.items():
                    _line(axes, found[measure], colour, _LINES[grid], _name(policy, policies, grid))
            axes.set_title(title, fontsize=10, loc="left", color=COLOURS["ink"])
            axes.set_ylim(0, 1.02 if measure == "pointing" else None)
            axes.set_xlabel("layer")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure, panels[0])
    return figure


def sensitivity_figure(policy: PolicyGrounding, policies: Sequence[PolicyGrounding]) -> Figure:
    """How far the actions move and how much worse they get, over the layer from which tokens are gone.

    A method has one scale for all policies.
    """
    with style():
        figure = Figure(figsize=(7.6, 4.4), layout="constrained")
        panels = figure.subplots(2, len(METHODS), sharex=True)
        for (move, harm), method in zip(panels.T, METHODS, strict=True):
            points = [point for point in policy.removed if point.method == method]
            _removals(move, points, "change")
            _removals(harm, points, "harm")
            every = [point for one in policies for point in one.removed if point.method == method]
            low, high = min(point.harm.low for point in every), max(point.harm.high for point in every)
            margin = 0.05 * (high - low) or 1
            move.set_title(METHOD_TITLES[method], fontsize=10, loc="left", color=COLOURS["ink"])
            move.set_ylim(0, 1.05 * max(point.change.high for point in every) or 1)
            harm.axhline(0, color=COLOURS["quiet"], linewidth=0.8)
            harm.set(xlabel="removed from layer", ylim=(low - margin, high + margin))
            harm.xaxis.set_major_locator(MaxNLocator(integer=True))
            for axes in (move, harm):
                axes.yaxis.set_major_locator(MaxNLocator(4))
        panels[0][0].set_ylabel("actions move by")
        panels[1][0].set_ylabel("error grows by")
        _legend(figure, panels[1][0], columns=2)
    return figure


def strip(shown: Shown, maps: Float[np.ndarray, "layers side side"]) -> Iterator[bytes]:
    """PNGs: the picture with its region, and the heat of each layer over it; empty where a layer has none."""
    outline = _outline(shown)
    yield _png(_outlined(_resized(shown.picture), outline))
    for heat in maps:
        yield b"" if np.isnan(heat).any() else _png(_outlined(_over(shown.picture, heat), outline))


def _removals(axes: Axes, points: Sequence[Removed], what: str) -> None:
    """A curve for each rate, the larger the darker, for the region and for the control; one band each."""
    rates = sorted({point.rate for point in points})
    for where, colour, line in (("region", "orange", "-"), ("control", "quiet", (0, (4, 2)))):
        for place, rate in enumerate(rates, start=1):
            own = sorted((p for p in points if (p.rate, p.where) == (rate, where)), key=lambda point: point.layer)
            label = f"{100 * rate:g} % of the region" if where == "region" else f"as many elsewhere ({100 * rate:g} %)"
            _curve(
                axes,
                [point.layer for point in own],
                [getattr(point, what) for point in own],
                COLOURS[colour],
                line,
                label,
                alpha=0.3 + 0.7 * place / len(rates),
                band=rate == rates[-1],
            )


def _line(axes: Axes, values: Layers, colour: str, line: object, label: str) -> None:
    known = [(layer, rate) for layer, rate in enumerate(values) if rate is not None]
    _curve(axes, [layer for layer, _ in known], [rate for _, rate in known], colour, line, label)


def _curve(
    axes: Axes,
    layers: Sequence[int],
    rates: Sequence[Rate],
    colour: str,
    line: object,
    label: str,
    *,
    alpha: float = 1.0,
    band: bool = True,
) -> None:
    """Means over the layers, and their intervals as a band."""
    marker = "o" if len(layers) == 1 else ""  # a line through one point would not be seen
    look: dict[str, Any] = {
        "color": colour,
        "linestyle": line,
        "linewidth": 1.6,
        "marker": marker,
        "alpha": alpha,
        "label": label,
    }
    axes.plot(layers, [rate.value for rate in rates], **look)
    if band:
        low, high = [rate.low for rate in rates], [rate.high for rate in rates]
        axes.fill_between(layers, low, high, color=colour, alpha=0.13, linewidth=0)


def _legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    lines = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        lines.values(), lines.keys(), loc="outside lower center", ncols=columns, fontsize=9, labelcolor=COLOURS["ink"]
    )


def _name(policy: PolicyGrounding, policies: Sequence[PolicyGrounding], grid: str) -> str:
    return f"{policy.label}, {grid}" if len(policies) > 1 else grid


def _resized(picture: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "side side 3"]:
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))


def _over(
    picture: UInt8[np.ndarray, "height width 3"], heat: Float[np.ndarray, "side side"]
) -> UInt8[np.ndarray, "side side 3"]:
    """The heat in colour over the picture in grey; the cold is see-through."""
    grey = _resized(picture).mean(-1, keepdims=True).repeat(3, -1)
    scaled = heat / max(float(heat.max()), np.finfo(np.float32).tiny)
    smooth = np.asarray(Image.fromarray(scaled.astype(np.float32)).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    colours = 255 * mpl.colormaps["inferno"](smooth)[..., :3]
    weight = 0.25 + 0.6 * smooth[..., None].clip(0, 1)
    return ((1 - weight) * grey + weight * colours).astype(np.uint8)


def _outline(shown: Shown) -> np.ndarray:
    """The pixels at the region's edge, in the strip's size."""
    small = Image.fromarray(shown.pixels.astype(np.uint8) * 255).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
    own = np.pad(np.asarray(small) > 0, 1)
    inner = own[:-2, 1:-1] & own[2:, 1:-1] & own[1:-1, :-2] & own[1:-1, 2:]
    return own[1:-1, 1:-1] & ~inner


def _outlined(picture: UInt8[np.ndarray, "side side 3"], outline: np.ndarray) -> UInt8[np.ndarray, "side side 3"]:
    return np.where(outline[..., None], np.array([60, 255, 200], np.uint8), picture)


def _png(picture: UInt8[np.ndarray, "side side 3"]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
