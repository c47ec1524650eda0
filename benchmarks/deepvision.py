"""What a vision expert costs, and whether pruning its tokens pays in time.

    python benchmarks/deepvision.py --size medium [--device cuda --size full --precision bf16] [--keep 0.25 0.5 0.75]

One action chunk, batch 1: the baseline without an expert, the expert with all of its tokens, and with those that
action-guided pruning keeps. Operations are counted by torch's `FlopCounterMode` on the meta device, attention included;
times are measured in turns over the same weights. A pruner that keeps everything must first give the same actions as no
pruner. The last line of the output is one JSON object.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from sizes import PRECISIONS, build, memory
from timing import Rounds, take_turns, verdict
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fathom.policies import parameter_count
from fathom.policies.deepvision_vla import DeepVisionVLA, DeepVisionVLAConfig, ExpertConfig, PruningConfig, TowerConfig
from fathom.policies.deepvision_vla.inputs import Inputs
from fathom.policies.deepvision_vla.layout import Layout
from fathom.weights import parameters_unset

SIZES = {
    "tiny": DeepVisionVLAConfig(
        horizon=4,
        vision=TowerConfig(
            width=32, mlp=48, layers=2, heads=2, image_size=32, patch=4, merge=2, position_grid=6, deepstack=(0,)
        ),
        vlm_width=32,
        vlm_mlp=64,
        layers=4,
        heads=4,
        kv_heads=2,
        head_dim=16,
        vocab_size=64,
        text_tokens=10,
        prompt="plain",
        expert=ExpertConfig(
            width=24,
            mlp=32,
            layers=3,
            heads=3,
            image_size=64,
            patch=4,
            coupled=2,
            kv_heads=2,
            pruning=PruningConfig(first_layer=1),
        ),
    ),
    "medium": DeepVisionVLAConfig(  # about the paper's proportions: DINOv3 ViT-S+/16 beside a language model of 50 M
        vision=TowerConfig(width=384, mlp=1536, layers=6, heads=6, deepstack=(1, 3)),
        vlm_width=512,
        vlm_mlp=1536,
        layers=12,
        heads=8,
        kv_heads=4,
        head_dim=64,
        vocab_size=4096,
        prompt="plain",
        expert=ExpertConfig(
            width=384, mlp=1536, layers=12, heads=6, coupled=6, kv_heads=4, pruning=PruningConfig(first_layer=2)
        ),
    ),
    "full": DeepVisionVLAConfig(prompt="plain"),
}
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a pruner that keeps everything changes the actions, 2 if the model does not fit."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device, dtype = torch.device(found if options.device == "auto" else options.device), PRECISIONS[options.precision]
    configs = contenders(SIZES[options.size], options.keep)
    needed = 2 * _parameters(configs["expert, all tokens"]) * dtype.itemsize  # with the baseline's weights beside it
    if needed > 0.9 * memory(device):
        print(f"{options.size} in {options.precision} does not fit this {device.type}: take a smaller --size or bf16")
        return 2

    policies = _build(configs, dtype, device)
    given = random_inputs(SIZES[options.size], dtype, device)
    whole = _everything_kept(policies["expert, all tokens"])
    difference = (_chunk(whole, given) - _chunk(policies["expert, all tokens"], given)).abs().max().item()
    if difference > TOLERANCE[options.precision]:
        print(f"a pruner that keeps everything changes the actions by {difference}", file=sys.stderr)
        return 1

    rounds = take_turns({name: partial(_chunk, p, given) for name, p in policies.items()}, options.repeats, device)
    result = {
        "work": "action chunk",
        "size": options.size,
        "precision": options.precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu x{torch.get_num_threads()}",
        "repeats": options.repeats,
        "parameters": {name: parameter_count(policy) for name, policy in policies.items()},
        "expert_tokens": {name: config.tokens.get("expert_main", 0) for name, config in configs.items()},
        "gflop": {name: operations(config) / 1e9 for name, config in configs.items()},
        "ms": {name: rounds.median(name) * 1000 for name in policies},
        "all_tokens_over": {name: rounds.ratio("expert, all tokens", name) for name in policies},
        "difference": difference,
    }
    _print(result, rounds)
    print(json.dumps(result))
    return 0


def contenders(config: DeepVisionVLAConfig, shares: Sequence[float]) -> dict[str, DeepVisionVLAConfig]:
    """The baseline, the expert unpruned, and pruned to these shares of its patches, by name."""
    expert = config.expert
    assert expert is not None and expert.pruning is not None
    found = {"baseline": replace(config, expert=None)}
    found["expert, all tokens"] = replace(config, expert=replace(expert, pruning=None))
    for share in shares:
        pruning = replace(expert.pruning, keep=share)
        name = f"expert, K = {pruning.kept(expert.grid**2)} of {expert.grid**2}"
        found[name] = replace(config, expert=replace(expert, pruning=pruning))
    return found


def operations(config: DeepVisionVLAConfig) -> int:
    """Floating-point operations of one chunk, as eager attention does them."""
    with parameters_unset(), torch.device("meta"):
        policy = DeepVisionVLA(replace(config, attention="eager")).eval()
        given = random_inputs(config, torch.float32, torch.device("meta"))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            policy.chunk(given)
    return counter.get_total_flops()


def random_inputs(config: DeepVisionVLAConfig, dtype: torch.dtype, device: torch.device) -> Inputs:
    """A picture and an instruction that fills half of its places."""
    generator = torch.Generator().manual_seed(1)

    def picture(side: int) -> Tensor:
        drawn = torch.rand(1, len(config.cameras), 3, side, side, generator=generator, device="cpu") * 2 - 1
        return drawn.to(device, dtype)

    places = config.text_tokens
    text = torch.randint(1, config.vocab_size, (1, places), generator=generator, device="cpu")
    return Inputs(
        pixels=picture(config.vision.image_size),
        expert_pixels=picture(config.expert.image_size) if config.expert else None,
        words=torch.zeros(1, Layout.of(config).words, dtype=torch.long, device=device),
        text=text.to(device),
        text_valid=(torch.arange(places, device="cpu") < places // 2)[None].to(device),
        state=torch.zeros(1, config.state_dim, device=device),
    )


def _build(
    configs: Mapping[str, DeepVisionVLAConfig], dtype: torch.dtype, device: torch.device
) -> dict[str, DeepVisionVLA]:
    """The policies; those with an expert share its weights."""
    first = build(configs["expert, all tokens"], dtype, device)
    policies = {"baseline": build(configs["baseline"], dtype, device)}
    policies |= {name: _twin(first, config) for name, config in configs.items() if name != "baseline"}
    return policies


def _twin(policy: DeepVisionVLA, config: DeepVisionVLAConfig) -> DeepVisionVLA:
    with parameters_unset(next(policy.parameters()).dtype), torch.device("meta"):
        other = DeepVisionVLA(config)
    other.load_state_dict(policy.state_dict(), assign=True)
    for name, buffer in policy.named_buffers():
        other.get_submodule(name.rpartition(".")[0]).register_buffer(name.rpartition(".")[2], buffer, persistent=False)
    return other.eval()


def _everything_kept(policy: DeepVisionVLA) -> DeepVisionVLA:
    expert = policy.config.expert
    assert expert is not None
    first = max(0, policy.config.alone - 1)
    return _twin(policy, replace(policy.config, expert=replace(expert, pruning=PruningConfig("action", 1.0, first))))


def _parameters(config: DeepVisionVLAConfig) -> int:
    with torch.device("meta"):
        return parameter_count(DeepVisionVLA(config))


@torch.no_grad()
def _chunk(policy: DeepVisionVLA, given: Inputs) -> Tensor:
    return policy.chunk(given if policy.config.expert else replace(given, expert_pixels=None))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, help="on a CPU (default: all cores)")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.125, 0.25, 0.5, 0.75], help="shares of the patches")
    return parser


def _print(result: Mapping[str, Any], rounds: Rounds) -> None:
    title = f"one action chunk, {result['size']} {result['precision']}, {result['device']}"
    names = ("policy", "parameters", "expert tokens", "GFLOP", "ms", "times as fast as all tokens", "does pruning pay?")
    table = Table(*names, title=title)
    for name in result["ms"]:
        middle, low, high = rounds.ratio("expert, all tokens", name)
        pays = {"met": "yes", "MISSED": "no", "unclear": "cannot be told"}[verdict((middle, low, high), 1.0)]
        table.add_row(
            name,
            f"{result['parameters'][name] / 1e6:.1f} M",
            str(result["expert_tokens"][name]),
            f"{result['gflop'][name]:.2f}",
            f"{result['ms'][name]:.1f}",
            f"{middle:.2f} ({low:.2f}–{high:.2f})",
            pays if "K =" in name else "",
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
