"""The recorded Video-Depth-Anything, and the official procedure to make more such recordings."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fathom.depth.estimators.video_depth_anything import (
    EncoderConfig,
    VideoDepthConfig,
    VideoDepthModel,
    load_model,
    read_tensors,
)
from fathom.depth.estimators.video_depth_anything.weights import official_name

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

GOLDEN = Path(__file__).parents[2] / "golden" / "video_depth_anything_tiny"
ENDINGS = (".config.json", ".weights.safetensors", ".cases.safetensors")
TINY = VideoDepthConfig(EncoderConfig(48, 4, 3, (0, 1, 2, 3), 70), 32, (32, 32, 32, 32))


@pytest.fixture
def golden() -> str:
    """The recorded numbers: the path up to the endings of its three files."""
    return str(GOLDEN)


@pytest.fixture
def copied(golden, tmp_path) -> str:
    for ending in ENDINGS:
        shutil.copy(golden + ending, tmp_path / f"copy{ending}")
    return str(tmp_path / "copy")


@pytest.fixture(scope="session")
def tiny() -> VideoDepthModel:
    """The model with the recorded weights."""
    path = Path(f"{GOLDEN}.weights.safetensors")
    return load_model(TINY, read_tensors(path), path)


@pytest.fixture(scope="session")
def recorded() -> dict[str, torch.Tensor]:
    return read_tensors(Path(f"{GOLDEN}.cases.safetensors"))


@pytest.fixture
def frames() -> Callable[..., np.ndarray]:
    """Smooth moving pictures, which differ from frame to frame."""

    def make(count: int, height: int = 28, width: int = 42, seed: int = 0) -> np.ndarray:
        phase = np.random.default_rng(seed).uniform(0, 6, 3)
        t, y, x = np.meshgrid(np.arange(count) / 9, np.arange(height) / 11, np.arange(width) / 13, indexing="ij")
        waves = [np.sin(x * (1 + i) + t + phase[i]) * np.cos(y - t * i + phase[i]) for i in range(3)]
        return ((np.stack(waves, -1) + 1) * 127).astype(np.uint8)

    return make


def random_model(config: VideoDepthConfig, seed: int = 0) -> VideoDepthModel:
    """Weights that make motion and depth felt, unlike the first values of training."""
    generator = torch.Generator().manual_seed(seed)
    model = VideoDepthModel(config)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "lambda1")):
            tensor.copy_(0.5 + 0.1 * noise)
        else:
            fan = tensor[0].numel() if tensor.ndim > 1 else 100
            tensor.copy_(noise * min(1.0, 0.7 / fan**0.5))
    return model.eval().requires_grad_(False)


def official_state(model: VideoDepthModel) -> dict[str, torch.Tensor]:
    """The weights under their official names."""
    state: dict[str, Any] = {}
    for ours, tensor in model.state_dict().items():
        theirs, third = official_name(ours)
        if third is None:
            state[theirs] = tensor.clone()
        else:
            state.setdefault(theirs, [None] * 3)[third] = tensor
    return {name: torch.cat(value) if isinstance(value, list) else value for name, value in state.items()}


@pytest.fixture
def make_state() -> Callable[..., dict[str, torch.Tensor]]:
    """Random weights under their official names: of the tiny model, or of a given one."""
    return lambda model=None: official_state(model or random_model(TINY))


@pytest.fixture
def record(tmp_path, frames) -> Callable[..., str]:
    """Files as the golden ones, of another model, with what the official procedure (benchmarks/peers) computes."""
    from peers.video_depth_anything import OfficialVideoDepthAnything

    def write(config: VideoDepthConfig, input_size: int, clip: tuple[int, ...], video: tuple[int, int, int]) -> str:
        prefix = tmp_path / "other"
        model = random_model(config)
        encoder = config.encoder
        sizes = {
            "encoder": {**encoder.__dict__, "intermediate_layers": list(encoder.intermediate_layers)},
            "features": config.features,
            "out_channels": list(config.out_channels),
            "input_size": input_size,
        }
        Path(f"{prefix}.config.json").write_text(json.dumps(sizes))
        save_file(official_state(model), f"{prefix}.weights.safetensors")
        peer = OfficialVideoDepthAnything(model, input_size)
        pictures = frames(*video)
        pixels = torch.randn(clip, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            depth = torch.cat([peer.forward(one[None]) for one in pixels])
        cases = {
            "clip": pixels,
            "expected_clip_depth": depth,
            "video": torch.from_numpy(pictures),
            "expected_video_depth": torch.from_numpy(peer.infer(pictures)),
        }
        save_file(cases, f"{prefix}.cases.safetensors")
        return str(prefix)

    return write
