"""How much work a model cannot do without: floating-point operations and bytes, counted from its configuration.

A weight that meets a token costs 2 FLOPs (a product and a sum). A query that reads a key costs
``4 * heads * head_dim``: once for the logit, once for the value. Only pairs that the visibility table allows are
counted, only layers whose output is read (in the last layer of the prefix that is the keys and values), and no norms,
activations or softmax. Bytes are those of the weights and of the cached keys and values, read once each time they are
needed: the action expert in every flow step, everything else once. What an accelerator does beyond that is overhead.

Training costs three times the forward pass: the backward pass has two products for each one of the forward. For
the matrices alone that is the usual ``6 * parameters * tokens``, part by part.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fathom.policies.qdepth_vla import QDepthVLAConfig
from fathom.training import throughput
from fathom.training.throughput import Precision


@dataclass(frozen=True)
class Work:
    """An amount of work.

    Attributes:
        flops: floating-point operations.
        bytes: read from memory.
    """

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: int) -> "Work":
        return Work(self.flops * times, self.bytes * times)


@dataclass(frozen=True)
class Peak:
    """What a device can do at most.

    Attributes:
        flops: per second.
        bandwidth: bytes read per second.
        source: where the numbers come from.
    """

    flops: float
    bandwidth: float
    source: str

    def floor(self, *phases: Work) -> float:
        """Seconds that the phases take one after another, each at the limit of the one or the other."""
        return sum(max(work.flops / self.flops, work.bytes / self.bandwidth) for work in phases)


BANDWIDTH = {"H200": 4.8e12}
"""Bytes a second by NVIDIA's data sheet; operations are :data:`fathom.training.throughput.GPUS`'."""


def chunk_phases(config: QDepthVLAConfig, width: int) -> dict[str, Work]:
    """One action chunk for one observation, in the phases that must follow each other.

    Args:
        width: bytes of one number.
    """
    image, text, depth = _lengths(config)
    prefix = image + text + depth + 1
    experts = _stream(config, "expert", depth, _depth_reads(config), stop_early=True) if depth else Work()
    experts += _stream(config, "expert", 1, image + text + 1, stop_early=True) + _matrix(1, config.state_dim, w(config))
    if depth:
        experts += _depth_in(config)
    vlm = _stream(config, "vlm", image + text, image + text, stop_early=True)
    flow = _stream(config, "expert", config.horizon, prefix + config.horizon) + _action_ends(config)
    cached = Work(0, 2 * config.layers * prefix * config.kv_heads * config.head_dim)
    phases = {
        "vision": _vision(config),
        "prefix": vlm + experts + Work(0, text * config.vlm_width),
        "flow": (flow + cached) * config.flow_steps,
    }
    return {name: Work(phase.flops, phase.bytes * width) for name, phase in phases.items()}


def training_flops(config: QDepthVLAConfig) -> float:
    """One sample's forward and backward pass through everything, all parameters trained."""
    image, text, depth = _lengths(config)
    work = _vision(config) + _stream(config, "vlm", image + text, image + text, stop_early=True)
    work += _stream(config, "expert", 1, image + text + 1, stop_early=True) + _matrix(1, config.state_dim, w(config))
    if config.depth:
        work += _depth_in(config) + _stream(config, "expert", depth, _depth_reads(config)) + _depth_out(config)
    everything = image + text + depth + 1 + config.horizon
    work += (_stream(config, "expert", config.horizon, everything) + _action_ends(config)) * config.flow_draws
    return 3 * work.flops


def peak_of(device: torch.device, precision: Precision) -> Peak:
    """From the data sheet where we have it, else measured: the best of a few matrix products and of a few sums."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = throughput.peak_of(device, precision)
    if known is None:
        square = torch.ones(2048, 2048, dtype=torch.bfloat16 if precision == "bf16" else torch.float32, device=device)
        flops = 2 * 2048**3 / _best(lambda: square @ square, device)
        known = throughput.Peak(flops, f"measured: matrix products in {precision}")
    bandwidth = next((bytes_ for gpu, bytes_ in BANDWIDTH.items() if gpu in name), None)
    if bandwidth is None:
        vector = torch.ones(2**26, device=device)
        bandwidth = 4 * len(vector) / _best(vector.sum, device)
    return Peak(known.flops, bandwidth, known.source)


def w(config: QDepthVLAConfig) -> int:
    """The experts' width."""
    return config.expert_width


def _lengths(config: QDepthVLAConfig) -> tuple[int, int, int]:
    """Tokens of all pictures, of the text, of the depth expert."""
    grid = config.vision.grid**2
    return grid * len(config.cameras), config.text_tokens, grid if config.depth else 0


def _depth_reads(config: QDepthVLAConfig) -> int:
    return sum(_lengths(config))


def _matrix(tokens: int, rows: int, columns: int) -> Work:
    return Work(2 * tokens * rows * columns, rows * columns)


def _stream(config: QDepthVLAConfig, kind: str, tokens: int, reads: int, *, stop_early: bool = False) -> Work:
    """All layers of a stream; ``stop_early`` leaves it at its last keys and values."""
    gemma = config.gemma("vlm" if kind == "vlm" else "expert")
    width, inner = gemma.hidden_size, config.heads * config.head_dim
    keys = _matrix(tokens, width, 2 * config.kv_heads * config.head_dim)
    rest = _matrix(tokens, width, inner) * 2 + _matrix(tokens, width, gemma.intermediate_size) * 3
    rest += Work(4 * tokens * reads * inner, 0)
    return keys * config.layers + rest * (config.layers - stop_early)


def _vision(config: QDepthVLAConfig) -> Work:
    """The encoder and the projector; its weights are read once for all pictures."""
    vision = config.vision
    one, pictures = vision.grid**2, len(config.cameras)
    tokens = one * pictures
    layer = _matrix(tokens, vision.width, vision.width) * 4 + _matrix(tokens, vision.width, vision.mlp) * 2
    layer += Work(4 * tokens * one * vision.width, 0)
    ends = _matrix(tokens, 3 * vision.patch**2, vision.width) + _matrix(tokens, vision.width, config.vlm_width)
    return layer * vision.layers + ends


def _depth_in(config: QDepthVLAConfig) -> Work:
    tokens = config.vision.grid**2
    return _matrix(tokens, config.vision.width, w(config)) + _matrix(tokens, w(config), w(config))


def _depth_out(config: QDepthVLAConfig) -> Work:
    """The decoder's two convolutions and the distances to the codes."""
    assert config.depth is not None
    tokens, upsample = config.vision.grid**2, (config.depth.grid // config.vision.grid) ** 2
    convolutions = _matrix(tokens, 9 * w(config), w(config)) + _matrix(
        tokens, w(config), config.depth.code_dim * upsample
    )
    return convolutions + _matrix(config.depth.grid**2, config.depth.code_dim, config.depth.codes)


def _action_ends(config: QDepthVLAConfig) -> Work:
    """Action encoder and decoder."""
    ends = _matrix(config.horizon, config.action_dim, w(config)) * 2
    return ends + _matrix(config.horizon, w(config), w(config)) * 3


def _best(work: Callable[[], object], device: torch.device, times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
