"""Does our Video-Depth-Anything compute what the official one computed? (``fathom verify video-depth-anything``)"""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fathom.config import parse_config, read_json
from fathom.depth.estimators.video_depth_anything import (
    EncoderConfig,
    VideoDepthAnything,
    VideoDepthConfig,
    load_model,
    read_tensors,
)
from fathom.errors import UserError
from fathom.weights import shape_text

SHARE = 1e-3
"""The largest difference that counts as the same, as a share of the range of the expected depth."""


@torch.inference_mode()
def verify_video_depth_anything(prefix: str | Path) -> dict[str, Any]:
    """Compare one forward pass over a clip, and the whole procedure over a long video, with what was recorded.

    Args:
        prefix: path of ``.config.json``, ``.weights.safetensors`` and ``.cases.safetensors`` up to those endings
            (layout: ``tests/golden/README.md``).

    Returns:
        ``{"ok", "max": {name: largest absolute difference}, "tolerance": {name: bound}}`` for ``clip`` and ``video``.

    Raises:
        UserError: a file is missing or damaged, or the three do not belong together.
    """
    config, input_size = _read_config(Path(f"{prefix}.config.json"))
    weights = Path(f"{prefix}.weights.safetensors")
    model = load_model(config, read_tensors(weights), weights)
    cases = _read_cases(Path(f"{prefix}.cases.safetensors"), config.encoder.patch_size)

    estimator = VideoDepthAnything(model, "relative_inverse", input_size=input_size)
    computed = {
        "clip": model(cases["clip"]).numpy(),
        "video": estimator.estimate(cases["video"].numpy()).values,
    }
    largest, tolerance = {}, {}
    for name, ours in computed.items():
        expected = cases[f"expected_{name}_depth"].numpy()
        largest[name] = _difference(ours, expected)
        tolerance[name] = float(SHARE * (expected.max() - expected.min()))
    ok = all(largest[name] <= tolerance[name] for name in largest)
    return {"ok": ok, "max": largest, "tolerance": tolerance}


def _read_config(path: Path) -> tuple[VideoDepthConfig, int]:
    """The sizes, and the input size of the long video; what the file says beyond them is not looked at."""
    values = read_json(path, "configuration of a Video-Depth-Anything")
    input_size, encoder = values.get("input_size"), values.get("encoder")
    if not isinstance(input_size, int):
        raise UserError(f"{path}: input_size is {input_size!r}, it should be a number of pixels")
    if isinstance(encoder, dict):
        values["encoder"] = _only(encoder, EncoderConfig)
    return parse_config(VideoDepthConfig, _only(values, VideoDepthConfig), path), input_size


def _only(values: dict[str, Any], kind: type) -> dict[str, Any]:
    known = {field.name for field in fields(kind)}
    return {name: value for name, value in values.items() if name in known}


def _read_cases(path: Path, patch: int) -> dict[str, Tensor]:
    cases = read_tensors(path)
    for name in ("clip", "expected_clip_depth", "video", "expected_video_depth"):
        if name not in cases:
            raise UserError(f"{path} has no {name}: it should hold a clip, a video and the expected depth of both")
    clip, video = cases["clip"], cases["video"]
    if clip.ndim != 5 or clip.shape[2] != 3 or clip.shape[3] % patch or clip.shape[4] % patch:
        raise UserError(
            f"{path}: clip is {shape_text(clip.shape)}, expected clips x frames x 3 x height x width "
            f"with height and width multiples of {patch}"
        )
    if video.ndim != 4 or video.shape[3] != 3 or video.dtype != torch.uint8:
        raise UserError(
            f"{path}: video is {shape_text(video.shape)} {video.dtype}, expected frames x height x width x 3 uint8"
        )
    for name, shape in (("clip", (*clip.shape[:2], *clip.shape[3:])), ("video", video.shape[:3])):
        if (found := cases[f"expected_{name}_depth"].shape) != shape:
            raise UserError(f"{path}: expected_{name}_depth is {shape_text(found)}, expected {shape_text(shape)}")
    return cases


def _difference(ours: Float[np.ndarray, "*shape"], theirs: Float[np.ndarray, "*shape"]) -> float:
    largest = float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max())
    return largest if np.isfinite(largest) else float(np.finfo(np.float32).max)  # JSON knows no infinity
