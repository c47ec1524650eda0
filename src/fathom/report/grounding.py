"""The page of the layer-wise analysis: what policies look at, and whether it matters."""

from collections.abc import Iterator
from pathlib import Path

from fathom.analysis import METHODS, Grounding, PolicyGrounding
from fathom.analysis.result import Layers
from fathom.evaluation import Rate
from fathom.files import write_file, write_json

from .figures import to_svg
from .grounding_figures import METHOD_TITLES, WORST, attention_figure, heat_figure, sensitivity_figure, strip
from .html import data_uri, page, paragraph, section, table, text

QUERY_TITLES = {"action": "What the action tokens read", "instruction": "What the instruction reads"}
_GRIDS = {
    "image": "image tokens",
    "depth": "depth expert",
    "expert": "vision expert",
}
_ATTENTION = (
    "An attention is averaged over the tokens that ask and over the heads (of a flow also over its steps). Mass: how "
    "much of it falls on the picture. Share: how much of that falls on the region; the thin line is what it would be "
    "if every token were read alike, those too that a pruned vision expert has dropped. Entropy: 0 where a single "
    "token is read, 1 where all are read alike. Pointing: in how many frames the token that is read most lies in the "
    "region. Bands are 95 % intervals."
)
_HEAT = (
    "Grad-CAM: where in the picture lies what the chunk is made of, in what each layer reads (the score is half the "
    "squared norm of the normalised chunk). Every map has a scale of its own. The outline is the region."
)
_SENSITIVITY = (
    "Tokens that show the region are removed from a layer on, whatever stream they are in. Above: how far the actions"
    " move from those of the untouched policy. Below: by how much their distance from the recorded actions grows. "
    "Both in normalised units, where [-1, 1] is what the robot does. Dashed: as many tokens elsewhere in the picture."
    " What earlier layers read stays read, so a curve falls where the actions have taken what they need. Noise is the"
    " same throughout. Zero: the tokens are zeros. Mean: each is the mean of the tokens of its own grid that stay. "
    "Knock-out: nobody reads them. Bands, of the largest share alone, are 95 % intervals."
)


def write_grounding(found: Grounding, folder: Path) -> Path:
    """Write ``grounding.json`` with every number, and ``grounding.html``, which needs nothing beside it.

    Returns:
        the page's path.
    """
    write_json(folder / "grounding.json", found.to_json())
    path = folder / "grounding.html"
    title = f"Fathom · Grounding on {found.dataset}"
    parts = [
        f"<h1>{text(title)}</h1>",
        _summary(found),
        *(_attention(found, query) for query in QUERY_TITLES),
        _heat(found),
        _sensitivity(found),
        _numbers(found),
        _made(found),
    ]
    write_file(path, page(title, parts).encode())
    return path


def _summary(found: Grounding) -> str:
    """One sentence for each policy: how much it takes to lose the region, against losing as much elsewhere."""
    rows = []
    for policy in found.policies:
        worst, control = _worst(policy, "region"), _worst(policy, "control")
        rows.append(
            [
                f"{text(policy.title)} <small>{text(policy.label)}</small>",
                _cell(policy.error, 3),
                _cell(worst, 4),
                _cell(control, 4),
                _pointing(policy),
            ]
        )
    share = f"{100 * max(found.settings['rates']):g} %"
    part = "the region" if share == "100 %" else f"{share} of the region"
    head = ["", "action error", f"moved without {part}", "moved without as much elsewhere", "points at the region"]
    where = f"{len(found.frames)} frames of {found.episodes} {_episodes(found)}, the region: {', '.join(found.regions)}"
    told = (
        "Action error: mean distance of the chunk from the recorded one. Moved: how far the chunk goes when nobody "
        f"reads {share} of the region's tokens from layer {_first_layer(found)} on, or as many elsewhere. Points: the "
        "layer in which the actions' attention on the image tokens points at the region most often. Intervals are "
        "95 %, by a bootstrap over episodes."
    )
    return section(where[0].upper() + where[1:], table(head, rows, "short"), paragraph(told, "note"))


def _attention(found: Grounding, query: str) -> str:
    title, told = QUERY_TITLES[query], paragraph(_ATTENTION) if query == "action" else ""
    if not any(policy.attention.get(query) for policy in found.policies):
        return section(title, paragraph(f"In {_these(found)} it reads no tokens of the picture.", "note"))
    return section(title, told, f'<div class="wide">{to_svg(attention_figure(found.policies, query))}</div>')


def _heat(found: Grounding) -> str:
    if not found.shown:
        return ""
    frames = []
    for place, shown in enumerate(found.shown):
        layers = max(policy.layers for policy in found.policies)
        rows = [
            [
                f"{text(policy.title)}<br><small>{text(policy.label)}: {text(_GRIDS[name])}</small>",
                *(_image(png) for png in strip(shown, maps)),
                *[""] * (layers - policy.layers),
            ]
            for policy in found.policies
            for name, maps in policy.heat[place].items()
        ]
        head = ["", "picture", *(f"layer {layer}" for layer in range(layers))]
        caption = f"“{shown.instruction}”, episode {shown.episode}, frame {shown.frame}"
        frames.append(f"<h3>{text(caption)}</h3>" + table(head, rows, "strips"))
    shares = f'<div class="wide">{to_svg(heat_figure(found.policies))}</div>'
    return section("Grad-CAM, layer by layer", paragraph(_HEAT), *frames, shares)


def _image(png: bytes) -> str:
    return f'<img alt="" src="{data_uri(png, "image/png")}">' if png else ""


def _sensitivity(found: Grounding) -> str:
    figures = [
        f"<h3>{text(policy.title)} <small>{text(policy.label)}</small></h3>"
        f'<div class="wide">{to_svg(sensitivity_figure(policy, found.policies))}</div>'
        for policy in found.policies
    ]
    return section("How much the actions need the region, layer by layer", paragraph(_SENSITIVITY), *figures)


def _numbers(found: Grounding) -> str:
    return section("In numbers", *(_details(policy) for policy in found.policies))


def _details(policy: PolicyGrounding) -> str:
    """Every layer of a policy, folded away."""
    rows = list(_rows(policy))
    head = ["", *(f"layer {layer}" for layer in range(policy.layers))]
    own = table(head, rows, "numbers")
    layers = sorted({point.layer for point in policy.removed})
    curves = table(
        ["removed", *(f"from layer {layer}" for layer in layers)],
        [
            [text(f"{METHOD_TITLES[method]}, {100 * rate:g} %, {where}"), *(_cell(value, 4) for value in values)]
            for (method, rate, where), values in _curves(policy).items()
        ],
        "numbers",
    )
    title = f"{text(policy.title)} <small>{text(policy.label)}</small>"
    return f"<details><summary>{title}</summary>{own}<h3>How far the actions move</h3>{curves}</details>"


def _rows(policy: PolicyGrounding) -> Iterator[list[str]]:
    for query, grids in policy.attention.items():
        for grid, found in grids.items():
            for measure, values in found.items():
                yield [text(f"{query} on {grid}: {measure}"), *(_cell(value, 3) for value in values)]
    for grid, found in policy.gradcam.items():
        for measure, values in found.items():
            yield [text(f"Grad-CAM of {grid}: {measure}"), *(_cell(value, 3) for value in values)]


def _curves(policy: PolicyGrounding) -> dict[tuple[str, float, str], list[Rate]]:
    """The change by method, rate and where, in the order of the layers."""
    curves: dict[tuple[str, float, str], list[Rate]] = {}
    for point in sorted(policy.removed, key=lambda point: (METHODS.index(point.method), point.rate, point.layer)):
        curves.setdefault((point.method, point.rate, point.where), []).append(point.change)
    return curves


def _made(found: Grounding) -> str:
    grids = [
        [
            f"{text(policy.title)} <small>{text(policy.label)}</small>",
            ", ".join(f"{name} {side} × {side}" for name, side in policy.sides.items()),
            ", ".join(f"{100 * share:.1f} %" for share in policy.area.values()),
        ]
        for policy in found.policies
    ]
    split = f"the split {found.split}" if found.split else "all episodes"
    told = (
        f"{len(found.frames)} frames of {split} of {found.dataset}, drawn with seed {found.settings['seed']} from "
        "those that show the region. A token belongs to the region if the region covers half of its patch, or else if "
        "it covers more of it than of any other. grounding.json holds every number, and which frames these were."
    )
    return section(
        "How it was made",
        paragraph(told),
        table(["", "tokens that show the picture", "of these the region"], grids, "short"),
    )


def _worst(policy: PolicyGrounding, where: str) -> Rate:
    """The change where the largest share of the region, or as much elsewhere, is gone from the first layer on."""
    return next(
        point.change
        for point in sorted(policy.removed, key=lambda point: (-point.rate, point.layer))
        if point.where == where and point.method == WORST
    )


def _first_layer(found: Grounding) -> int:
    return min(point.layer for policy in found.policies for point in policy.removed)


def _pointing(policy: PolicyGrounding) -> str:
    values: Layers = policy.attention["action"]["image"]["pointing"]
    best = max(range(len(values)), key=lambda layer: _value(values[layer]))
    rate = values[best]
    return "never" if not rate or not rate.value else f"{100 * rate.value:.0f} % <small>layer {best}</small>"


def _value(rate: Rate | None) -> float:
    return -1.0 if rate is None else rate.value


def _cell(rate: Rate | None, digits: int) -> str:
    if rate is None:
        return ""
    return f"{rate.value:.{digits}f}<br><small>{rate.low:.{digits}f}–{rate.high:.{digits}f}</small>"


def _these(found: Grounding) -> str:
    return "this policy" if len(found.policies) == 1 else "these policies"


def _episodes(found: Grounding) -> str:
    return "episode" if found.episodes == 1 else "episodes"
