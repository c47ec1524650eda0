"""How many samples a second one training step takes: ours against one joint pass with eager attention.

    python benchmarks/training_step.py --size 300m --batch 2 [--precision bf16] [--cameras 2] [--no-depth]

A step is the loss, its backward pass and the training's own optimiser: norms, clipping, AdamW on all parameters (its
rate is 0, so that the weights stay what they are and both contenders share them). Weights are fp32; with bf16 the
passes run under autocast. Both must first give the same loss. MFU is the counted work of the passes (three times the
forward's, `counting.py`) over what the device could do in that time; the optimiser's own work is not counted. The last
line of the output is one JSON object.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from counting import peak_of, training_flops
from jaxtyping import Bool, Int
from peers.open_pi_zero import OpenPiZero
from rich.console import Console
from rich.table import Table
from sizes import add_model_options, build, chosen, memory, parameter_counts, random_actions, random_inputs
from timing import Rounds, take_turns, verdict
from torch import Tensor

from fathom.data.batch import Batch
from fathom.data.draws import Draws
from fathom.data.normalization import Normalization, Scaling
from fathom.policies.qdepth_vla import QDepthVLA, QDepthVLAConfig
from fathom.training.config import GroupScales, OptimizerConfig, TrainingConfig
from fathom.training.optimizer import Optimizer

PEER = "eager, one pass"
BAR = 1.3  # on a CPU
BAR_MFU = 0.5  # on an H200, 3b, bf16
BYTES_PER_PARAMETER = 16  # fp32: the weight, its gradient and AdamW's two moments
DEPTH_WEIGHT = 0.01
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05}  # of the loss, relatively


class Prompts:
    """Stands for the text tokenizer: always the same ids."""

    def __init__(self, ids: Int[Tensor, "batch text"], valid: Bool[Tensor, "batch text"]) -> None:
        self.ids, self.valid = ids, valid

    def __call__(self, instructions: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Whatever is asked, the ids and which are valid."""
        return self.ids, self.valid


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if the losses differ, 2 if the model does not fit."""
    options = _parser().parse_args(arguments)
    config, device = chosen(options)
    counts = parameter_counts(config)
    needed = counts["all"] * BYTES_PER_PARAMETER
    if needed > 0.9 * memory(device):
        print(
            f"{options.size} needs {needed / 1e9:.0f} GB for fp32 weights, gradients and AdamW, and this {device.type} "
            f"has {memory(device) / 1e9:.0f}: take a smaller --size",
            file=sys.stderr,
        )
        return 2

    policy, batch = problem(config, options.batch, device)
    losses = {"fathom": partial(our_loss, policy, batch), PEER: partial(peer_loss, OpenPiZero(policy), batch)}
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=options.precision == "bf16")
    with torch.no_grad(), autocast():
        values = {name: loss().item() for name, loss in losses.items()}
    if abs(values["fathom"] - values[PEER]) > TOLERANCE[options.precision] * abs(values["fathom"]):
        print(f"the losses differ, {values}: nothing to compare", file=sys.stderr)
        return 1

    still = OptimizerConfig(scale=GroupScales(vlm=0, vision=0, action=0, depth=0))
    optimizer = Optimizer(policy, TrainingConfig(optimizer=still))

    def step(loss: Callable[[], Tensor]) -> None:
        with autocast():
            value = loss()
        value.backward()
        optimizer.update(optimizer.norms()["grad_norm"])

    work = {name: partial(step, loss) for name, loss in losses.items()}
    rounds = take_turns(work, options.repeats, device)
    peak = peak_of(device, options.precision)
    flops = training_flops(config) * options.batch
    result = {
        "work": "training step",
        "size": options.size,
        "parameters": counts,
        "precision": options.precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu x{torch.get_num_threads()}",
        "cameras": options.cameras,
        "depth": options.depth,
        "softcap": options.softcap,
        "onednn": options.onednn,
        "batch": options.batch,
        "repeats": options.repeats,
        "samples_per_s": {name: options.batch / rounds.median(name) for name in work},
        "peer_over_fathom": rounds.ratio(PEER, "fathom"),
        "loss": values,
        "peak_gb": {name: bytes_ / 1e9 for name, bytes_ in rounds.peak_bytes.items() if bytes_},
        "tflop": flops / 1e12,
        "mfu": {name: flops / rounds.median(name) / peak.flops for name in work},
        "peak": peak.source,
    }
    _print(result, rounds)
    print(json.dumps(result))
    return 0


def problem(config: QDepthVLAConfig, size: int, device: torch.device) -> tuple[QDepthVLA, Batch]:
    """A policy to train and a batch to train it on, whose depth codes were computed beforehand."""
    policy = build(config, torch.float32, device).train()
    inputs = random_inputs(config, size, torch.float32, torch.device("cpu"))
    policy.text_tokenizer = Prompts(inputs.text, inputs.text_valid)  # type: ignore[assignment]
    same = (Scaling((0.0,) * count, (1.0,) * count, clip=False) for count in (config.state_dim, config.action_dim))
    policy.normalization = Normalization("mean_std", *same)
    codes = torch.Generator().manual_seed(3)
    batch = Batch(
        images={name: (inputs.pixels[:, place] + 1) / 2 for place, name in enumerate(config.cameras)},
        state=inputs.state,
        instruction=[""] * size,
        actions=random_actions(config, size, torch.device("cpu"), seed=4),
        action_is_pad=torch.zeros(size, config.horizon, dtype=torch.bool),
        depth_codes=torch.randint(config.depth.codes, (size, config.depth.grid**2), generator=codes)
        if config.depth
        else None,
    )
    return policy, batch.to(device)


def our_loss(policy: QDepthVLA, batch: Batch) -> Tensor:
    """Ours."""
    return policy.loss(batch, Draws(5)).total(DEPTH_WEIGHT)


def peer_loss(peer: OpenPiZero, batch: Batch) -> Tensor:
    """The peer's, with the noise and times that ours draws."""
    draws = Draws(5)
    noise = draws.normal(batch, (1, *batch.actions.shape[1:]), "noise")[:, 0].to(batch.actions)
    time = peer.config.convention.flow.time_of(draws.uniform(batch, (1,), "time")[:, 0]).to(noise)
    return peer.loss(peer.policy.prepare(batch), batch.actions, noise, time, batch.depth_codes, DEPTH_WEIGHT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    return parser


def _print(result: Mapping[str, Any], rounds: Rounds) -> None:
    title = f"training step, {result['size']} {result['precision']}, batch {result['batch']}, {result['device']}"
    table = Table("procedure", "samples/s", f"times as fast as {PEER}", "bar", "MFU", "peak GB", title=title)
    for name, rate in result["samples_per_s"].items():
        middle, low, high = rounds.ratio(PEER, name)
        gigabytes = result["peak_gb"].get(name)
        table.add_row(
            name,
            f"{rate:.2f}",
            f"{middle:.2f} ({low:.2f}–{high:.2f})",
            _bar(result, name, (middle, low, high)),
            f"{result['mfu'][name]:.0%}",
            f"{gigabytes:.1f}" if gigabytes else "–",
        )
    console = Console()
    console.print(table)
    console.print(f"{result['tflop']:.2f} TFLOP a step; peak from: {result['peak']}")


def _bar(result: Mapping[str, Any], name: str, ratio: tuple[float, float, float]) -> str:
    """The bar of DESIGN's table for this run and whether it is met, where there is one."""
    if name != "fathom":
        return ""
    if result["device"].startswith("cpu"):
        return f"≥ {BAR}: {verdict(ratio, BAR)}"
    if result["size"] == "3b" and result["precision"] == "bf16":
        return f"≥ {BAR_MFU:.0%} MFU: {'met' if result['mfu'][name] >= BAR_MFU else 'MISSED'}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
