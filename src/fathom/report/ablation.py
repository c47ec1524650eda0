"""The page of an ablation: one HTML file that needs nothing beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fathom.evaluation.ablation import FULL, HEADINGS, Row, cells
from fathom.files import write_file

from .figures import COLOURS, style, to_svg
from .html import page, paragraph, section, table, text

JOINT = "+"
"""Between the changes of one variant; in a figure each has a line."""

_HOW = (
    "Success is pooled over the seeds, with its 95 % Wilson interval, as if all episodes were independent; the rates "
    "of the single trainings stand beside it. The difference is that of the same tasks, layouts and seeds, in "
    "percentage points; its 95 % interval counts that other seeds and other layouts would move it. Action error: mean "
    "distance of a sampled action from the recorded one on held-out episodes, in normalised units. Depth AbsRel: "
    "of the depth expert's picture against true depth on held-out frames. Both: mean, lowest and highest of the seeds. "
    "Paper: what the full policy's paper prints. Parameters: without the frozen depth tokenizer."
)


def write_ablation_report(path: Path, found: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write the page.

    Args:
        found: the contents of ``ablation.json``.
        rows: the same rows as values.
    """
    title = f"Fathom · ablation on {found['protocol']['suite']}"
    written = [[text(cell) for cell in cells(row)] for row in rows]
    parts = [
        f"<h1>{text(title)}</h1>",
        section("Results", table([text(name) for name in HEADINGS], written), paragraph(_HOW, "note")),
        _differences(rows),
        section("How it was made", *(paragraph(line) for line in _made(found))),
    ]
    write_file(path, page(title, parts).encode())


def _made(found: Mapping[str, Any]) -> list[str]:
    protocol = found["protocol"]
    return [
        f"Command: {found['command']}",
        f"Fingerprint of all policies: {found['fingerprint']}; of the dataset: {found['made_from']['dataset']}.",
        f"Tasks: {', '.join(protocol['tasks'])}; {protocol['episodes']} episodes each, {found['seeds']} seeds.",
    ]


def _differences(rows: Sequence[Row]) -> str:
    if not any(row.difference for row in rows):
        return ""
    note = "Dot and line: mean and 95 % interval. Strokes: the single seeds."
    return section("Differences", f"<figure>{to_svg(figure(rows))}</figure>", paragraph(note, "note"))


def figure(rows: Sequence[Row]) -> Figure:
    """Each variant's difference to the full policy with its interval, and each seed's own."""
    full = next((dict(zip(row.seeds, row.success_per_seed, strict=True)) for row in rows if row.variant == FULL), {})
    shown = [(row, row.difference) for row in rows if row.difference is not None]
    with style():
        names = [row.variant.replace(JOINT, f"\n{JOINT} ") for row, _ in shown]
        lines = sum(max(2, 1 + name.count("\n")) for name in names)
        drawn = Figure(figsize=(7.2, 0.7 + 0.19 * lines), layout="constrained")
        axes = drawn.subplots()
        for place, (row, shift) in enumerate(shown):
            own = [(seed, rate) for seed, rate in zip(row.seeds, row.success_per_seed, strict=True) if seed in full]
            apart = [100 * (rate - full[seed]) for seed, rate in own]
            axes.plot([100 * shift.low, 100 * shift.high], [place, place], color=COLOURS["blue"], linewidth=2)
            axes.plot(100 * shift.value, place, "o", color=COLOURS["blue"])
            axes.plot(apart, [place] * len(apart), "|", color=COLOURS["ink"], markersize=11)
        axes.axvline(0, color=COLOURS["ink"], linewidth=1)
        axes.set_yticks(range(len(shown)), names)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_xlabel("success, percentage points against full")
    return drawn
