"""How training scales: samples, tokens, MFU and memory by size, batch and recomputation; 8 to 256 GPUs on paper.

    python benchmarks/scaling.py --sizes tiny 300m --batches 1 4 [--precision bf16]
    torchrun --standalone --nproc-per-node 2 benchmarks/scaling.py --sizes tiny --batches 4
    python benchmarks/scaling.py --simulate --mfu 0.4

A step is that of the training: loss, backward pass, sums over the processes, clipping, AdamW. Batches are those of one
process. The last line of the output is one JSON object. `--simulate` measures nothing: it sets the bytes that FSDP
moves against the computing, by the formulas of :func:`simulate`, at an MFU that was measured on one GPU.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from counting import _lengths, peak_of, training_flops
from rich.console import Console
from rich.table import Table
from sizes import SIZES, memory, parameter_counts
from training_step import BYTES_PER_PARAMETER, DEPTH_WEIGHT, problem

from fathom.data.draws import Draws
from fathom.policies.qdepth_vla import QDepthVLAConfig
from fathom.training.config import TrainingConfig
from fathom.training.device import pick_device
from fathom.training.distributed import World, joined
from fathom.training.layers import wrapped
from fathom.training.optimizer import Optimizer
from fathom.training.throughput import GPUS
from fathom.training.tracking import of_the_machine

NODE = 8


@dataclass(frozen=True)
class Links:
    """How fast a GPU sends, in bytes a second and one direction.

    Attributes:
        inside: to others of its node: NVLink 4 has 450 GB/s, of which collectives reach about 80 % (assumed).
        between: to other nodes: one 400 Gb/s adapter for each GPU, at 80 % (assumed).
    """

    inside: float = 0.8 * 450e9
    between: float = 0.8 * 50e9


@dataclass(frozen=True)
class Foreseen:
    """One step on paper.

    Attributes:
        devices: how many.
        shard: devices that share one copy of the weights.
        compute_s: of the model's own work.
        inside_s: moving weights and gradients within a node.
        between_s: moving them between nodes.
        samples_per_s: of all devices, if moving and computing overlap completely.
        worst_samples_per_s: likewise if they do not overlap at all.
    """

    devices: int
    shard: int
    compute_s: float
    inside_s: float
    between_s: float
    samples_per_s: float
    worst_samples_per_s: float


def simulate(
    parameters: int, flops: float, devices: int, shard: int, batch: int, parts: int, rate: float, links: Links
) -> Foreseen:
    """A step of ``devices`` × ``batch`` samples, each device's in ``parts``.

    With S = ``shard`` and R = devices / S, a device receives in every part the bf16 weights twice (for the forward and
    the backward pass), ``2 * 2 * P * (S - 1) / S`` bytes; once a step it passes on fp32 gradients,
    ``4 * P * (S - 1) / S``; and adds its share up with the other groups, ``2 * 4 * P / S * (R - 1) / R`` (ring).
    A group that fits into a node stays within it. A ring over several nodes goes at the speed of their links.

    Args:
        flops: of a sample, forward and backward.
        rate: that a device reaches when it need not wait for others.
    """
    replicas = devices // shard
    sharing = parameters * (shard - 1) / shard * (2 * 2 * parts + 4)
    adding = 2 * 4 * parameters / shard * (replicas - 1) / replicas
    inside_bytes, between_bytes = (sharing, 0.0) if shard <= NODE else (0.0, sharing)
    if devices > NODE:
        between_bytes += adding
    else:
        inside_bytes += adding
    compute, inside, between = flops * batch / rate, inside_bytes / links.inside, between_bytes / links.between
    samples = devices * batch
    moving = inside + between
    return Foreseen(
        devices, shard, compute, inside, between, samples / max(compute, moving), samples / (compute + moving)
    )


def measure(
    config: QDepthVLAConfig, batch: int, training: TrainingConfig, repeats: int, world: World
) -> dict[str, Any]:
    """Steps of the training on one batch."""
    device = pick_device()
    policy, one = problem(config, batch, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # where there is Linux, the process's highest memory is counted anew
        Path("/proc/self/clear_refs").write_text("5")
    with wrapped(policy, training):
        world.share_out(policy, training)
        optimizer = Optimizer(policy, training)
        whole, seconds = world.whole(one), []
        for step in range(repeats + 1):  # the first one warms up
            begin = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
                loss = policy.loss(one, Draws(0, step), whole).total(DEPTH_WEIGHT)
            world.backward(policy, loss, last=True)
            optimizer.update(optimizer.norms()["grad_norm"])
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begin)
    rate = world.size * batch / median(seconds[1:])
    tokens = sum(_lengths(config)) + 1 + config.horizon
    tflop = training_flops(config) / 1e12
    used = of_the_machine({"samples_per_s": rate, "tflop": tflop}, world.size, device, training.precision)
    return {"samples_per_s": rate, "tokens_per_s": rate * tokens, **used}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print, or simulate; 2 if nothing fits."""
    options = _parser().parse_args(arguments)
    return _simulate(options) if options.simulate else _measure(options)


def _measure(options: argparse.Namespace) -> int:
    device, rows = pick_device(), []
    if options.threads:
        torch.set_num_threads(options.threads)
    base = TrainingConfig(precision=options.precision)
    with joined(base) as world:
        for size in options.sizes:
            needed = parameter_counts(SIZES[size])["all"] * BYTES_PER_PARAMETER / world.size
            if needed > 0.9 * memory(device) / (world.size if device.type == "cpu" else 1):
                print(f"{size} is left out: it needs {needed / 1e9:.0f} GB in each process", file=sys.stderr)
                continue
            for batch in options.batches:
                for recompute in (False, True):
                    training = replace(base, recompute=recompute)
                    found = measure(SIZES[size], batch, training, options.repeats, world)
                    rows.append({"size": size, "batch": batch, "recompute": recompute, **found})
        if not rows:
            return 2
        result = {
            "work": "scaling",
            "processes": world.size,
            "precision": options.precision,
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"cpu x{torch.get_num_threads()}",
            "peak": peak_of(device, options.precision).source,
            "rows": rows,
        }
        if world.is_first:
            _print(f"{result['processes']} × {result['device']}, {options.precision}", rows)
            print(json.dumps(result), flush=True)
        world.wait()
    return 0


def _simulate(options: argparse.Namespace) -> int:
    config = SIZES["3b"]
    gpu = GPUS[options.gpu]
    rate, parameters, flops = options.mfu * gpu.bf16, parameter_counts(config)["all"], training_flops(config)
    rows = []
    for devices in (8, 16, 32, 64, 128, 256):
        for shard in dict.fromkeys((NODE, devices)):
            batch = max(1, options.global_batch // devices)
            parts = -(-batch // 32)
            rows.append(asdict(simulate(parameters, flops, devices, shard, batch, parts, rate, Links())))
    _print(f"3b on {options.gpu} at {options.mfu:.0%} MFU, batches of {options.global_batch}: on paper", rows)
    print(json.dumps({"work": "scaling on paper", "gpu": options.gpu, "mfu": options.mfu, "rows": rows}))
    return 0


def _print(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["tiny"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of each process, on a CPU")
    parser.add_argument("--simulate", action="store_true", help="8 to 256 GPUs, on paper")
    parser.add_argument("--gpu", choices=list(GPUS), default="H200", help="for --simulate")
    parser.add_argument("--mfu", type=float, default=0.4, help="for --simulate: as measured on one GPU")
    parser.add_argument("--global-batch", type=int, default=1024, help="for --simulate")
    return parser


if __name__ == "__main__":
    sys.exit(main())
