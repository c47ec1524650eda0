"""The page of a depth-aware VLM's quickstart: one HTML file that needs nothing beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from fathom.evaluation.spatial import Answers, Comparison
from fathom.evaluation.statistics import Rate
from fathom.files import write_file
from fathom.report.figures import COLOURS, Line, curves, style, to_svg
from fathom.report.html import data_uri, page, panel, paragraph, section, table, text
from fathom.vlm.scoring.lines import read_lines

_COLOUR = {"none": "quiet", "concat": "blue", "positional": "orange", "adapter": "purple", "rgbd": "green"}
_HOW = (
    "Percent of the questions answered right, by MSMU-Bench's rules, judged by rules where the answer is no number. "
    "Overall is the mean of the types. The gain is relative: 20 % is a fifth more right answers. Intervals are 95 %, "
    "from drawing the test scenes again; they do not count that another seed would move the scores."
)


def write_spatial_report(
    path: Path, recipe: Any, rows: Sequence[Comparison], answers: Sequence[Answers], folder: Path, questions: Path
) -> Path:
    """Write the page.

    Args:
        recipe: a dataclass, shown as it is.
        folder: of the run, with ``runs/*/ARM/metrics.jsonl``.
        questions: with the pictures that the answers are about.

    Returns:
        ``path``.
    """
    parts = [
        "<h1>Fathom · does depth help a vision-language model?</h1>",
        section("Results", _results(rows), f"<figure>{to_svg(_figure(rows))}</figure>", paragraph(_HOW, "note")),
        _alignment(folder),
        section("Examples", *_examples(answers, questions)),
        section("Losses", _losses(folder)),
        section("Settings", f"<pre>{text(json.dumps(asdict(recipe), indent=2))}</pre>"),
    ]
    write_file(path, page("Fathom · depth-aware VLM", parts).encode())
    return path


def _results(rows: Sequence[Comparison]) -> str:
    types = list(rows[0].per_type)
    head = ["fusion", "scenes", "seeds", *types, "overall", "gain over none"]
    body = []
    for row in rows:
        gain = "" if row.gain is None else _cell(Rate(*(100 * value for value in row.gain)), "+")
        cells = [_cell(row.per_type[name]) for name in types]
        body.append([text(row.arm), f"{row.share:.0%}", str(len(row.seeds)), *cells, _cell(row.overall), gain])
    return table([text(name) for name in head], body)


def _cell(rate: Rate, sign: str = "") -> str:
    return f"<b>{rate.value:{sign}.1f} %</b><br><small>{rate.low:.1f} – {rate.high:.1f}</small>"


def _figure(rows: Sequence[Comparison]) -> Figure:
    """Overall score of each arm with its interval."""
    with style():
        drawn = Figure(figsize=(7.2, 0.8 + 0.38 * len(rows)), layout="constrained")
        axes = drawn.subplots()
        for place, row in enumerate(rows):
            colour = COLOURS[_COLOUR[row.arm]]
            axes.plot([row.overall.low, row.overall.high], [place, place], color=colour, linewidth=2)
            axes.plot(row.overall.value, place, "o", color=colour)
        axes.set_yticks(range(len(rows)), [f"{row.arm} ({row.share:.0%})" for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_xlabel("overall, percent right")
    return drawn


def _alignment(folder: Path) -> str:
    """How often a picture found its depth among those held out."""
    found = {
        path.parent.parent.name: json.loads(path.read_text()) for path in folder.glob("runs/*/aligned/alignment.json")
    }
    if not found:
        return ""
    names = list(next(iter(found.values()))["recall"])
    body = [
        [text(run), str(record["held_out"]), *(f"{record['recall'][name]:.0%}" for name in names)]
        for run, record in sorted(found.items())
    ]
    note = (
        "How often a held-out picture finds its own depth (and the other way round) among the first 1 or 5, and how "
        "often a patch does among those of its picture. An encoder aligned by patches need not tell pictures apart."
    )
    return section("Alignment", table(["run", "pairs held out", *names], body), paragraph(note, "note"))


def _examples(answers: Sequence[Answers], questions: Path, count: int = 8) -> list[str]:
    """Questions about different scenes: picture, depth, the truth, and what each arm said."""
    lines = [line.fields for line in read_lines(questions / "test.jsonl")]
    places: dict[str, int] = {}
    for place, line in enumerate(lines):
        if line["image"] not in places and line["type"] == _wanted(len(places), lines):
            places[line["image"]] = place
    first = {one.arm: one for one in reversed(answers)}
    return [_example(lines[place], first, place, questions) for place in list(places.values())[:count]]


def _wanted(number: int, lines: Sequence[Mapping[str, Any]]) -> str:
    types = sorted({line["type"] for line in lines})
    return types[number % len(types)]


def _example(line: Mapping[str, Any], arms: Mapping[str, Answers], place: int, questions: Path) -> str:
    with Image.open(questions / line["depth"]) as depth:
        metres = np.asarray(depth) / 1000
    with Image.open(questions / line["image"]) as image:
        pictures = [_png(image.convert("RGB")), _png(Image.fromarray(_coloured(metres)))]
    shown = "".join(f'<img src="{data_uri(png, "image/png")}" width="160" height="160" alt="">' for png in pictures)
    said = "".join(
        f"<li>{text(arm)}: {text(one.said[place]['response'])}</li>"
        for arm, one in arms.items()
        if place < len(one.said)
    )
    words = f"<b>{text(line['question'])}</b><ul><li>true: {text(line['answer'])}</li>{said}</ul>"
    return f"<figure>{shown}<figcaption>{words}</figcaption></figure>"


def _coloured(metres: np.ndarray) -> np.ndarray:
    """Near is bright, unknown black; on a logarithmic scale of its own."""
    known = metres > 0
    logs = np.log(np.where(known, metres, 1.0))
    low, high = logs[known].min(), logs[known].max()
    shade = 1 - (logs - low) / max(high - low, 1e-6)
    return np.where(known[..., None], 255 * colormaps["viridis"](shade)[..., :3], 0).astype(np.uint8)


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.resize((160, 160), Image.Resampling.NEAREST).save(buffer, format="PNG")
    return buffer.getvalue()


def _losses(folder: Path) -> str:
    """A figure for each run: the curves of its base and its arms."""
    runs = {run.name: _lines(run) for run in sorted(folder.glob("runs/*"))}
    drawn = [panel(name, curves(lines, log=True)) for name, lines in runs.items() if lines]
    return f'<div class="panels">{"".join(drawn)}</div>' if drawn else paragraph("No losses were logged.")


def _lines(run: Path) -> list[Line]:
    lines = []
    for path in sorted(run.glob("*/metrics.jsonl")):
        name = path.parent.name
        if name != "aligned":  # another loss
            values = [json.loads(line) for line in path.read_text().splitlines()]
            steps, losses = [v["step"] for v in values], [v["loss"] for v in values]
            lines.append(Line(name, _COLOUR.get(name, "ink"), steps, losses))
    return lines
