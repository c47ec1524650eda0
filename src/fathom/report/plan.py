"""A plan of a training, as tables for a terminal."""

from rich.console import Group, RenderableType
from rich.table import Table

from fathom.training.plan import EFFICIENCY, RESERVE, Plan
from fathom.training.throughput import GB

_MEMORY = {
    "weights": "weights (fp32)",
    "gradients": "gradients",
    "optimizer": "AdamW's moments",
    "average": "averaged weights",
    "gathered": "gathered layers",
    "activations": "activations",
}


def plan_tables(plan: Plan) -> RenderableType:
    """Parameters, memory on each device, steps and time."""
    return Group(_parts(plan), _memory(plan), _run(plan))


def _parts(plan: Plan) -> Table:
    table = Table("part", "parameters", "trained", title="Parameters")
    for name, part in plan.parts.items():
        table.add_row(name, _millions(part.parameters), _millions(part.trained))
    parts = plan.parts.values()
    total = sum(part.parameters for part in parts), sum(part.trained for part in parts)
    table.add_section()
    table.add_row("all", *map(_millions, total))
    return table


def _memory(plan: Plan) -> Table:
    table = Table("", "GB", title=f"Memory on each of {plan.machine.devices} devices, {plan.part} samples at once")
    for name, told in _MEMORY.items():
        table.add_row(told, f"{getattr(plan.memory, name) / GB:.2f}")
    recompute = plan.training.recompute
    table.add_row(
        f"  [dim]{'without' if recompute else 'with'} --training.recompute[/dim]",
        f"[dim]{plan.other_activations / GB:.2f}[/dim]",
    )
    table.add_section()
    table.add_row("needed", f"{plan.memory.total / GB:.2f}")
    table.add_row(f"{1 - RESERVE:.0%} of {plan.machine.memory_source}", f"{plan.room / GB:.2f}")
    return table


def _run(plan: Plan) -> Table:
    table = Table(title="Run", show_header=False)
    training = plan.training
    table.add_row("samples", f"{plan.frames} frames, {training.steps * training.batch_size / plan.frames:.1f} epochs")
    table.add_row("steps", f"{training.steps} of {training.batch_size} samples")
    table.add_row("work", f"{plan.flops / 1e12:.3g} TFLOP a step")
    if plan.seconds is None or plan.machine.peak is None:
        table.add_row("time", "not known: give --gpu, or --tflops as seen in training")
        return table
    peak = plan.machine.peak
    share = "" if plan.machine.sustained else f"{EFFICIENCY:.0%} of "
    told = f"{share}{peak.flops / 1e12:.3g} TFLOP/s on each device ({peak.source}), if data never waits"
    table.add_row("time", f"{_duration(plan.seconds)}, with {told}")
    return table


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
