"""The models that are measured, with random weights, and random inputs for them.

A size is named for its vision-language model, as PaliGemma-3B is; the two experts come on top.
"""

import argparse
import os
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm

from fathom.policies import policy_type
from fathom.policies.depth_expert.targets import Codes
from fathom.policies.qdepth_vla import DepthConfig, QDepthVLA, QDepthVLAConfig, VisionConfig
from fathom.policies.qdepth_vla.inputs import Inputs
from fathom.weights import parameters_unset

SIZES = {
    "tiny": QDepthVLAConfig(
        vision=VisionConfig(width=32, mlp=64, layers=2, heads=2, image_size=32, patch=8),
        vlm_width=48,
        vlm_mlp=96,
        expert_width=32,
        expert_mlp=64,
        layers=3,
        heads=4,
        head_dim=8,
        vocab_size=64,
        text_tokens=10,
        depth=DepthConfig(grid=4, codes=16, code_dim=12),
    ),
    "300m": QDepthVLAConfig(  # about PaliGemma's proportions: 0.30 B, and 0.05 B for each expert
        vision=VisionConfig(width=768, mlp=3072, layers=12, heads=12),
        vlm_width=1024,
        vlm_mlp=4096,
        expert_width=512,
        expert_mlp=2048,
        layers=12,
        head_dim=128,
        vocab_size=32_768,
    ),
    "3b": QDepthVLAConfig(),
}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options that both benchmarks share."""
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, help="on a CPU (default: all cores)")
    parser.add_argument(
        "--onednn",
        action="store_true",
        help="on a CPU: oneDNN multiplies fp32 matrices too, for all contenders (torch has MKL do it, slow on AMD)",
    )
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--depth", action=argparse.BooleanOptionalAction, default=True, help="with the depth expert")
    parser.add_argument("--softcap", type=float, help="cap the attention logits; open-pi-zero's checkpoints have 50")


def chosen(options: argparse.Namespace) -> tuple[QDepthVLAConfig, torch.device]:
    """The configuration and the device that the options name."""
    if options.threads:
        torch.set_num_threads(options.threads)
    # Where the CPU has no AMX, oneDNN then still computes in fp32; where it has, the check of the results will tell.
    torch.backends.mkldnn.matmul.fp32_precision = "bf16" if options.onednn else "none"  # type: ignore[attr-defined]
    available = "cuda" if torch.cuda.is_available() else "cpu"
    size = SIZES[options.size]
    cameras = ("main", *(f"camera_{number}" for number in range(2, options.cameras + 1)))
    config = replace(size, cameras=cameras, softcap=options.softcap, depth=size.depth if options.depth else None)
    return config, torch.device(available if options.device == "auto" else options.device)


def parameter_counts(config: QDepthVLAConfig) -> dict[str, int]:
    """Parameters of the vision-language model (encoder and projector included), and in all."""
    with torch.device("meta"):
        policy = QDepthVLA(config)
    counts = {name: parameter.numel() for name, parameter in policy.named_parameters()}
    vlm = ("vision_tower.", "multi_modal_projector.", "mixture.streams.vlm.")
    return {"vlm": sum(n for name, n in counts.items() if name.startswith(vlm)), "all": sum(counts.values())}


def memory(device: torch.device) -> int:
    """Bytes that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def build(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """The policy of a configuration, with random weights that keep the scale of what they multiply.

    They are never held in another precision.
    """
    with parameters_unset(dtype), device:
        policy = policy_type(config)(config)  # type: ignore[call-arg]
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for module in policy.modules():
            around = 1.0 if isinstance(module, nn.LayerNorm | Qwen3VLTextRMSNorm) else 0.0  # Gemma's are around 0
            for name, parameter in module.named_parameters(recurse=False):
                spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.02
                parameter.normal_(around if name == "weight" else 0.0, spread, generator=generator)
            if isinstance(module, Codes):
                module.codebook.normal_(generator=generator)
                module.temperature.fill_(config.depth.code_dim if config.depth else 1)
    return policy.eval()


def twin(policy: QDepthVLA) -> QDepthVLA:
    """Another policy over the same parameters: to be compiled, say, while the first stays as it is."""
    with parameters_unset(policy.action_decoder.weight.dtype), policy.device:
        other = QDepthVLA(policy.config)
    other.load_state_dict(policy.state_dict(), assign=True)
    return other.eval()


def random_inputs(config: QDepthVLAConfig, batch: int, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Pictures, prompts that fill some of their places, states."""
    generator = torch.Generator().manual_seed(1)
    side, places = config.vision.image_size, config.text_tokens
    pixels = torch.rand(batch, len(config.cameras), 3, side, side, generator=generator) * 2 - 1
    text = torch.randint(1, config.vocab_size, (batch, places), generator=generator)
    words = places // 2 + torch.arange(batch) % (places // 2)
    state = torch.rand(batch, config.state_dim, generator=generator) * 2 - 1
    valid = torch.arange(places) < words[:, None]
    return Inputs(pixels.to(device, dtype), text.to(device), valid.to(device), state.to(device))


def random_actions(
    config: QDepthVLAConfig, batch: int, device: torch.device, seed: int
) -> Float[Tensor, "batch horizon action"]:
    """Normal numbers of an action chunk's shape: noise, or actions as good as any."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, config.horizon, config.action_dim, generator=generator).to(device)
