"""The page of one training, finished or still going: losses, gradients, held-out errors, speed, settings."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .figures import Line, curves
from .html import data_uri, panel, paragraph, section, text
from .run import Metrics, read_metrics
from .sections import every_setting

_GRADIENTS = "grad_norm"
_COLOURS = {"vlm": "blue", "vision": "purple", "action": "orange", "depth": "green"}
"""Of the groups of weights, as of the streams in a quickstart's report."""


@dataclass(frozen=True)
class _Panel:
    """What one figure shows.

    Attributes:
        title: what stands above it.
        scale: what values are multiplied by.
    """

    title: str
    scale: float = 1


_LOSSES = {
    "loss": _Panel("Loss, all its terms"),
    "action_loss": _Panel("Action loss"),
    "depth_loss": _Panel("Depth loss"),
    "future_depth_loss": _Panel("Loss of the depth ahead"),
    "alignment_loss": _Panel("Alignment with the vision expert (weighted)"),
    "depth_accuracy": _Panel("Right depth tokens (%)", 100),
    "depth_weight": _Panel("Weight λ of the depth loss"),
    "codebook_perplexity": _Panel("Perplexity of the codes"),
}
_HELD_OUT = {
    "held_out_action_error": _Panel("Action error (normalised units)"),
    "held_out_depth_abs_rel": _Panel("Depth: AbsRel"),
    "held_out_depth_delta_1": _Panel("Depth: δ1 (%)", 100),
}
_MACHINE = {
    "samples_per_s": _Panel("Samples per second, all devices"),
    "samples_per_s_per_device": _Panel("Samples per second, each device"),
    "data_wait_share": _Panel("Waiting for data (% of the time)", 100),
    "mfu": _Panel("Model FLOPs utilisation (%)", 100),
    "memory_gb": _Panel("Memory of the first process (GB)"),
    "lr": _Panel("Learning rate"),
}
_NOT_DRAWN = {"tflop"}  # of a sample: the same at every step


def is_training(settings: Mapping[str, Any]) -> bool:
    """Whether these are the settings of one training, and not of a run with several in it."""
    return isinstance(settings.get("training"), Mapping) and "log_every" in settings["training"]


def training_page(folder: Path, settings: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Title and parts of the page; a training that has only begun has its settings alone.

    Args:
        settings: that the training was claimed with.
    """
    metrics = read_metrics(folder)
    title = f"Fathom · training {folder.resolve().name}"
    others = {
        name: _Panel(name.replace("_", " ").capitalize())
        for name in metrics
        if name not in {*_LOSSES, *_HELD_OUT, *_MACHINE, *_NOT_DRAWN} and not name.startswith(_GRADIENTS)
    }
    parts = [
        f"<h1>{text(title)}</h1>",
        paragraph(_state(metrics, settings["training"]), "verdict"),
        _section(metrics, "Losses", "Each point is the mean over the steps since the point before.", _LOSSES | others),
        _gradients(metrics, settings["training"]),
        _section(metrics, "Held-out episodes", "Measured with the weights of that step, not their average.", _HELD_OUT),
        _pictures(folder),
        _section(metrics, "The machine", "What the training makes of it, since the point before.", _MACHINE),
        section("Configuration", every_setting(settings)),
    ]
    return title, parts


def _state(metrics: Metrics, training: Mapping[str, Any]) -> str:
    """How far the training is, in a sentence."""
    if "loss" not in metrics:
        return "This training has logged nothing yet."
    steps, losses = metrics["loss"]
    total, step = training.get("steps"), steps[-1]
    said = f"Step {step:g}" + (f" of {total}" if total else "") + f": loss {losses[-1]:.4g}"
    if total and step < total and (rates := metrics.get("samples_per_s", ([], []))[1]) and rates[-1] > 0:
        said += f", about {_duration((total - step) * training['batch_size'] / rates[-1])} to go at this rate"
    return f"{said}."


def _section(metrics: Metrics, title: str, told: str, panels: Mapping[str, _Panel]) -> str:
    """The figures of those quantities that were logged."""
    drawn = [
        panel(one.title, curves([Line(one.title, "blue", *_points(metrics[name], one.scale))]))
        for name, one in panels.items()
        if name in metrics
    ]
    return section(title, paragraph(told), f'<div class="panels">{"".join(drawn)}</div>') if drawn else ""


def _gradients(metrics: Metrics, training: Mapping[str, Any]) -> str:
    """The norms of all gradients and of each group, on top of each other."""
    lines = []
    for name in (name for name in metrics if name.startswith(_GRADIENTS)):
        group = name.removeprefix(_GRADIENTS).strip("_")
        steps, norms = _points(metrics[name])
        if any(norm > 0 for norm in norms):  # a group that is frozen has no place on a logarithmic axis
            lines.append(Line(group or "all", _COLOURS.get(group, "ink"), steps, norms))
    if not lines:
        return ""
    clip = training.get("optimizer", training).get("clip_norm")
    guide = (clip, f"clipped to {clip:g}") if clip else None
    told = "The norms before clipping, of all weights and of each group, on a logarithmic scale."
    drawn = panel("Gradient norms", curves(lines, log=True, guide=guide))
    return section("Gradients", paragraph(told), f'<div class="panels">{drawn}</div>')


def _pictures(folder: Path) -> str:
    """True and predicted depth, as last drawn."""
    drawn = sorted((folder / "held_out").glob("step-*.png"))
    if not drawn:
        return ""
    step = int(drawn[-1].stem.removeprefix("step-"))
    image = f'<img src="{data_uri(drawn[-1].read_bytes(), "image/png")}" alt="" style="max-width:100%">'
    return section("Depth that the policy predicts", paragraph(f"On held-out frames, after step {step}."), image)


def _points(logged: tuple[list[float], list[float]], scale: float = 1) -> tuple[list[float], list[float]]:
    """Those with a finite value: a step that was left out has none."""
    kept = list(_finite(*logged))
    return [step for step, _ in kept], [scale * value for _, value in kept]


def _finite(steps: list[float], values: list[float]) -> Iterator[tuple[float, float]]:
    for step, value in zip(steps, values, strict=True):
        if value is not None and math.isfinite(value):
            yield step, value


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
