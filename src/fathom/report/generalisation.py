"""Success against the strength of perturbations, policy by policy."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fathom.errors import UserError
from fathom.evaluation import Rate, Result, wilson
from fathom.files import write_file
from fathom.simulation import SUITES
from fathom.simulation.perturbation import KINDS, Perturbation

from .figures import COLOURS, style, to_png, to_svg
from .html import COLOUR_OF, dot, page, paragraph, section, success_cell, table, text
from .run import label

_CHANGES = {
    "camera": "Camera shift",
    "lighting": "Lighting",
    "table": "Table texture",
    "background": "Background texture",
    "distractors": "Distractors",
}


@dataclass(frozen=True)
class Count:
    """Episodes under one perturbation, of all evaluations of a policy under it."""

    successes: int
    n: int

    @property
    def rate(self) -> Rate:
        """With its 95 % Wilson interval."""
        return wilson(self.successes, self.n)


Curve = Mapping[float, Count]
"""By strength; 0 is the scene as it is."""


@dataclass(frozen=True)
class Generalisation:
    """How each policy's success falls under each kind of perturbation.

    Attributes:
        curves: by kind and policy.
    """

    suite: str
    curves: Mapping[str, Mapping[str, Curve]]

    @classmethod
    def read(cls, evaluations: Iterable[Path]) -> Self:
        """From result files, or the folders that ``fathom eval`` wrote them to.

        Several evaluations of one policy under one perturbation (of other training seeds) count together.

        Raises:
            UserError: one cannot be read or differs from the first in more than policy and perturbation, or none is
                perturbed.
        """
        paths = dict.fromkeys(path / "results.json" if path.is_dir() else path for path in evaluations)
        results = {path: Result.load(path) for path in paths}
        counts: dict[tuple[str, Perturbation | None], Count] = defaultdict(lambda: Count(0, 0))
        for path, result in results.items():
            _check_alike(path, result, *next(iter(results.items())))
            key = result.policy, _perturbation(path, result)
            won = sum(episode.success for episode in result.episodes)
            counts[key] = Count(counts[key].successes + won, counts[key].n + len(result.episodes))
        met = {perturbation.kind for _, perturbation in counts if perturbation}
        curves = {str(kind): _curves(counts, kind) for kind in KINDS if kind in met}
        if not curves:
            raise UserError("none of these evaluations is perturbed: make some with `fathom eval --perturb lighting`.")
        return cls(next(iter(results.values())).suite, curves)

    @property
    def policies(self) -> list[str]:
        """In the order in which they were given."""
        return list(dict.fromkeys(policy for curves in self.curves.values() for policy in curves))


def write_generalisation(evaluations: Iterable[Path], out: Path) -> Path:
    """Draw success against strength; the name of ``out`` chooses a page that needs nothing beside it (``.html``) or the
    figure alone (``.svg``, ``.png``).

    Raises:
        UserError: as for :meth:`Generalisation.read`, or the name of ``out`` ends otherwise.
    """
    writers = {".html": _page, ".svg": _svg, ".png": _png}
    if out.suffix not in writers:
        raise UserError(f"{out}: the name must end in {', '.join(writers)}, which says what to write.")
    write_file(out, writers[out.suffix](Generalisation.read(evaluations)))
    return out


def draw(found: Generalisation) -> Figure:
    """A panel for each kind: rates in percent with 95 % Wilson intervals over the strength."""
    colours = _colours(found.policies)
    columns = min(len(found.curves), 3)
    rows = -(-len(found.curves) // columns)
    with style():
        figure = Figure(figsize=(3.1 * columns, 2.5 * rows + 0.4), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
        for axes, (kind, curves) in zip(panels, found.curves.items(), strict=False):
            for place, (policy, curve) in enumerate(curves.items()):
                shift = 0.012 * (place - (len(curves) - 1) / 2)  # so that bars do not cover each other
                _draw_curve(axes, curve, shift, COLOURS[colours[policy]], label(policy))
            axes.set(title=_CHANGES[kind], xlim=(-0.06, 1.06), ylim=(-3, 103), xlabel="strength")
            axes.yaxis.set_major_formatter("{x:.0f} %")
        for axes in panels[len(found.curves) :]:
            axes.set_axis_off()
        lines = {line.get_label(): line for axes in panels for line in axes.get_legend_handles_labels()[0]}
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4)
    return figure


def _draw_curve(axes: Axes, curve: Curve, shift: float, colour: str, name: str) -> None:
    strengths = sorted(curve)
    rates = [curve[strength].rate for strength in strengths]
    axes.errorbar(
        [strength + shift for strength in strengths],
        [100 * rate.value for rate in rates],
        yerr=[[100 * (r.value - r.low) for r in rates], [100 * (r.high - r.value) for r in rates]],
        color=colour,
        marker="o",
        markersize=4,
        linewidth=1.6,
        elinewidth=1,
        capsize=2,
        label=name,
    )


def _page(found: Generalisation) -> bytes:
    colours = _colours(found.policies)
    head = ["perturbation", *(dot(colours[policy]) + text(label(policy)) for policy in found.policies)]
    rows = [
        [text(f"{_CHANGES[kind]}, {strength:g}"), *(_cell(curves, p, strength, colours[p]) for p in found.policies)]
        for kind, curves in found.curves.items()
        for strength in sorted({strength for curve in curves.values() for strength in curve})
    ]
    told = (
        "Share of episodes solved while the scene looks other than in the demonstrations, against how far it does: 0 "
        "is the scene as it is. Bars are 95 % Wilson intervals; they tell what chance among episodes can do, not what "
        "another training would. What a perturbation does is drawn from the episode's seed, so every policy and every "
        "strength meets the same changes, and neither what can happen nor what counts as success differs."
    )
    title = f"Fathom · Generalisation on {found.suite}"
    parts = [
        f"<h1>{text(title)}</h1>",
        section("Success under perturbations", paragraph(told), f'<div class="wide">{to_svg(draw(found))}</div>'),
        section("In numbers", table(head, rows, "success")),
    ]
    return page(title, parts).encode()


def _svg(found: Generalisation) -> bytes:
    buffer = BytesIO()
    figure = draw(found)
    with style():
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    return buffer.getvalue()


def _png(found: Generalisation) -> bytes:
    return to_png(draw(found))


def _cell(curves: Mapping[str, Curve], policy: str, strength: float, colour: str) -> str:
    count = curves.get(policy, {}).get(strength)
    if count is None:
        return ""
    rate, low, high = count.rate
    return success_cell({"n": count.n, "successes": count.successes, "rate": rate, "low": low, "high": high}, colour)


def _colours(policies: Sequence[str]) -> dict[str, str]:
    """A CSS colour each: the policy's own if it has one, else one that no other has."""
    own = {policy: COLOUR_OF[policy] for policy in policies if policy in COLOUR_OF}
    free = [colour for colour in ("blue", "orange", "green", "purple", "quiet") if colour not in own.values()]
    others = [policy for policy in policies if policy not in own]
    return own | {policy: free[place % len(free)] if free else "ink" for place, policy in enumerate(others)}


def _curves(counts: Mapping[tuple[str, Perturbation | None], Count], kind: str) -> dict[str, Curve]:
    """Of every policy that was tried under this kind; where it was tried without any, that is strength 0."""
    curves: dict[str, Curve] = {}
    for policy in dict.fromkeys(policy for policy, found in counts if found and found.kind == kind):
        points = {
            found.strength: count
            for (name, found), count in counts.items()
            if found and name == policy and found.kind == kind
        }
        curves[policy] = ({0.0: counts[policy, None]} if (policy, None) in counts else {}) | points
    return curves


def _perturbation(path: Path, result: Result) -> Perturbation | None:
    told = result.protocol.get("perturbation")
    try:
        return None if told is None else Perturbation(**told)
    except (TypeError, UserError) as error:
        raise UserError(f"{path}: not a perturbation: {told} ({error}).") from None


def _check_alike(path: Path, result: Result, first_path: Path, first: Result) -> None:
    """Only what was evaluated alike can be compared."""
    ours, theirs = _conditions(result), _conditions(first)
    for name in sorted(set(ours) | set(theirs)):
        here, there = ours.get(name), theirs.get(name)
        if here != there:
            raise UserError(
                f"{path} was evaluated with {name} {here} and {first_path} with {there}: evaluate them alike, so that "
                "only policy and perturbation differ."
            )


def _conditions(result: Result) -> dict[str, Any]:
    """What must be the same: the protocol, but for the noise in which trainings differ, and the simulator."""
    protocol = {name: value for name, value in result.protocol.items() if name not in ("perturbation", "noise_seed")}
    packages = SUITES[result.suite].packages if result.suite in SUITES else ()
    simulator = {name: version for name, version in result.versions.items() if name in packages or "assets" in name}
    return protocol | simulator
