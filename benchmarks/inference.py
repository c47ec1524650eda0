"""How long one action chunk takes: ours against open-pi-zero's procedure, over the same weights and in turns.

    python benchmarks/inference.py --size 300m [--compile] [--precision bf16] [--cameras 2] [--no-depth]

Batch 1, ten flow steps. All contenders must first give the same actions. The last line of the output is one JSON
object. The floor is what the counted bytes and operations take at the device's peak (`counting.py`).
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from counting import chunk_phases, peak_of
from peers.open_pi_zero import OpenPiZero
from peers.recompute import Recompute
from rich.console import Console
from rich.table import Table
from sizes import PRECISIONS, add_model_options, build, chosen, memory, parameter_counts, random_actions, random_inputs
from sizes import twin as twin_of
from timing import Rounds, take_turns, verdict
from torch import Tensor

PEER = "open-pi-zero"
BAR = 1.5  # fathom against open-pi-zero on a CPU in fp32
BAR_MS = 10.0  # on an H200 in bf16, 3b
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}  # bf16 keeps 8 bits: this only tells a wrong procedure from a right one


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if the contenders' actions differ, 2 if the model does not fit."""
    options = _parser().parse_args(arguments)
    config, device = chosen(options)
    dtype = PRECISIONS[options.precision]
    counts = parameter_counts(config)
    if counts["all"] * dtype.itemsize > 0.9 * memory(device):
        message = f"{options.size} in {options.precision} does not fit this {device.type}: take bf16 or another --size"
        print(message, file=sys.stderr)
        return 2

    policy = build(config, dtype, device)
    inputs, noise = random_inputs(config, 1, dtype, device), random_actions(config, 1, device, seed=2)
    ways = {"fathom": policy.chunk, PEER: OpenPiZero(policy).chunk}
    if options.recompute:
        ways["recompute"] = Recompute(policy).chunk
    if options.compile:
        ways["fathom compiled"] = twin_of(policy).speed_up().chunk
    work = {name: partial(_chunk, way, inputs, noise) for name, way in ways.items()}
    differences = _differences({name: run() for name, run in work.items()})
    if max(differences.values()) > TOLERANCE[options.precision]:
        print(f"the actions differ by {differences}: nothing to compare", file=sys.stderr)
        return 1

    rounds = take_turns(work, options.repeats, device)
    phases = chunk_phases(config, dtype.itemsize)
    peak = peak_of(device, options.precision)
    result = {
        "work": "action chunk",
        "size": options.size,
        "parameters": counts,
        "precision": options.precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu x{torch.get_num_threads()}",
        "cameras": options.cameras,
        "depth": options.depth,
        "softcap": options.softcap,
        "onednn": options.onednn,
        "repeats": options.repeats,
        "ms": {name: rounds.median(name) * 1000 for name in work},
        "peer_over": {name: rounds.ratio(PEER, name) for name in work if name.startswith("fathom")},
        "difference": differences,
        "peak_gb": {name: bytes_ / 1e9 for name, bytes_ in rounds.peak_bytes.items() if bytes_},
        "floor_ms": {name: peak.floor(phase) * 1000 for name, phase in phases.items()},
        "gflop": {name: phase.flops / 1e9 for name, phase in phases.items()},
        "gb_read": {name: phase.bytes / 1e9 for name, phase in phases.items()},
        "peak": peak.source,
    }
    _print(result, rounds)
    print(json.dumps(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="also run ours compiled")
    parser.add_argument(
        "--recompute", action=argparse.BooleanOptionalAction, default=True, help="also the slow peer without a cache"
    )
    return parser


@torch.no_grad()
def _chunk(way: Callable[..., Tensor], *given: Any) -> Tensor:
    return way(*given).clone()  # a CUDA graph's output is overwritten by its next run


def _differences(chunks: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest difference of each chunk from ours."""
    ours = chunks["fathom"]
    return {name: (chunk - ours).abs().max().item() for name, chunk in chunks.items() if name != "fathom"}


def _print(result: Mapping[str, Any], rounds: Rounds) -> None:
    title = f"one action chunk, {result['size']} {result['precision']}, {result['device']}"
    table = Table("procedure", "ms", f"times as fast as {PEER}", "bar", "peak GB", title=title)
    for name, milliseconds in result["ms"].items():
        middle, low, high = rounds.ratio(PEER, name)
        gigabytes = result["peak_gb"].get(name)
        table.add_row(
            name,
            f"{milliseconds:.1f}",
            f"{middle:.2f} ({low:.2f}–{high:.2f})",
            _bar(result, name, (middle, low, high)),
            f"{gigabytes:.1f}" if gigabytes else "–",
        )
    floor = sum(result["floor_ms"].values())
    phases = ", ".join(f"{name} {value:.2f}" for name, value in result["floor_ms"].items())
    best = min(value for name, value in result["ms"].items() if name.startswith("fathom"))
    console = Console()
    console.print(table)
    console.print(f"floor {floor:.2f} ms ({phases}; {result['peak']}); ours takes {best / floor:.1f} times that")


def _bar(result: Mapping[str, Any], name: str, ratio: tuple[float, float, float]) -> str:
    """The bar of DESIGN's table for this run and whether it is met, where there is one."""
    if not name.startswith("fathom"):
        return ""
    if result["device"].startswith("cpu"):
        return f"≥ {BAR}: {verdict(ratio, BAR)}" if result["precision"] == "fp32" else ""
    if result["size"] == "3b" and result["precision"] == "bf16":
        return f"≤ {BAR_MS:.0f} ms: {'met' if result['ms'][name] <= BAR_MS else 'MISSED'}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
