"""Figures: drawn by matplotlib in the light theme's colours, which the page exchanges for its own."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

COLOURS = {
    "ink": "#1c2127",
    "quiet": "#67707b",
    "line": "#d8dce1",
    "blue": "#0072b2",
    "orange": "#d55e00",
    "green": "#009e73",
    "purple": "#b0648f",
}
"""The page's colours by their CSS names; told apart by colour-blind readers (after Okabe and Ito)."""

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["quiet"],
    "axes.edgecolor": COLOURS["line"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["quiet"],
    "ytick.color": COLOURS["quiet"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "fathom",
}


@dataclass(frozen=True)
class Line:
    """One curve: what the legend calls it, its colour's CSS name, and its points."""

    label: str
    colour: str
    steps: Sequence[float]
    values: Sequence[float]


@contextmanager
def style() -> Iterator[None]:
    """The report's style, for drawing and for writing."""
    with mpl.rc_context(_STYLE):
        yield


def curves(lines: Sequence[Line], *, log: bool = False, guide: tuple[float, str] | None = None) -> str:
    """Curves over the training steps as SVG; ``guide`` is a value to compare with, and what it is."""
    with style():
        figure = Figure(figsize=(3.6, 2.3), layout="constrained")
        axes = figure.subplots()
        for line in lines:
            dot = "o" if len(line.steps) == 1 else ""  # a line through one point would not be seen
            colour = COLOURS[line.colour]
            axes.plot(line.steps, line.values, color=colour, linewidth=1.6, marker=dot, label=line.label)
        if guide:
            axes.axhline(guide[0], color=COLOURS["quiet"], linewidth=1, linestyle=(0, (4, 3)), label=guide[1])
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.set_xlabel("step")
        if len(lines) > 1 or guide:
            axes.legend(fontsize=9, handlelength=1.2, labelspacing=0.3, labelcolor=COLOURS["ink"])
        return to_svg(figure)


def to_svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element in the page's fonts and colours."""
    buffer = BytesIO()
    with style():
        figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue().decode()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", svg))  # ids that nothing refers to would only collide with other figures'
    svg = re.sub(r' id="([\w-]+)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)  # the page decides how wide it is
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


def to_png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as a PNG on white."""
    buffer = BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()
