"""The official checkpoints of Video-Depth-Anything: an explicit map of their names, nothing missing or left over."""

import pickle
import re
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fathom.depth.estimators.video_depth_anything.config import SIZES, VideoDepthConfig
from fathom.depth.estimators.video_depth_anything.model import VideoDepthModel
from fathom.errors import UserError
from fathom.hub import local_folder
from fathom.weights import first_few, shape_text

HUB_IDS = "depth-anything/[Metric-]Video-Depth-Anything-Small (Apache-2.0), -Base or -Large (CC-BY-NC-4.0)"

_BLOCK = r"^encoder\.encoder\.layer\.(\d+)"
_MOTION = r"^head\.motion\.(\d)"
_THEIR_BLOCK = r"pretrained.blocks.\1"
_THEIR_MOTION = r"head.motion_modules.\1.temporal_transformer"
_THEIR_TRANSFORMER = rf"{_THEIR_MOTION}.transformer_blocks.0"

NAMES = {
    r"^encoder\.embeddings\.(cls_token|mask_token)$": r"pretrained.\1",
    r"^encoder\.embeddings\.position_embeddings$": "pretrained.pos_embed",
    r"^encoder\.embeddings\.patch_embeddings\.projection\.": "pretrained.patch_embed.proj.",
    r"^encoder\.layernorm\.": "pretrained.norm.",
    rf"{_BLOCK}\.(norm\d|mlp\.fc\d)\.": rf"{_THEIR_BLOCK}.\2.",
    # transformers before 5.2x has attention.attention.query and attention.output.dense
    rf"{_BLOCK}\.attention\.(?:attention\.)?(?:query|q_proj)\.(\w+)$": rf"{_THEIR_BLOCK}.attn.qkv.\2[0]",
    rf"{_BLOCK}\.attention\.(?:attention\.)?(?:key|k_proj)\.(\w+)$": rf"{_THEIR_BLOCK}.attn.qkv.\2[1]",
    rf"{_BLOCK}\.attention\.(?:attention\.)?(?:value|v_proj)\.(\w+)$": rf"{_THEIR_BLOCK}.attn.qkv.\2[2]",
    rf"{_BLOCK}\.attention\.(?:output\.dense|o_proj)\.": rf"{_THEIR_BLOCK}.attn.proj.",
    rf"{_BLOCK}\.layer_scale(\d)\.lambda1$": rf"{_THEIR_BLOCK}.ls\2.gamma",
    r"^head\.project\.(\d)\.": r"head.projects.\1.",
    r"^head\.resize\.(\d)\.": r"head.resize_layers.\1.",
    r"^head\.reduce\.(\d)\.": r"head.scratch.layer\1+_rn.",
    r"^head\.fuse\.(\d)\.skip\.": r"head.scratch.refinenet\1+.resConfUnit1.",
    r"^head\.fuse\.(\d)\.sum\.": r"head.scratch.refinenet\1+.resConfUnit2.",
    r"^head\.fuse\.(\d)\.out\.": r"head.scratch.refinenet\1+.out_conv.",
    r"^head\.shrink\.": "head.scratch.output_conv1.",
    r"^head\.output\.0\.": "head.scratch.output_conv2.0.",
    r"^head\.output\.1\.": "head.scratch.output_conv2.2.",
    rf"{_MOTION}\.norm\.": f"{_THEIR_MOTION}.norm.",
    rf"{_MOTION}\.project_(in|out)\.": rf"{_THEIR_MOTION}.proj_\2.",
    rf"{_MOTION}\.attention\.(\d)\.norm\.": rf"{_THEIR_TRANSFORMER}.norms.\2.",
    rf"{_MOTION}\.attention\.(\d)\.positions$": rf"{_THEIR_TRANSFORMER}.attention_blocks.\2.pos_encoder.pe",
    rf"{_MOTION}\.attention\.(\d)\.query\.": rf"{_THEIR_TRANSFORMER}.attention_blocks.\2.to_q.",
    rf"{_MOTION}\.attention\.(\d)\.key\.": rf"{_THEIR_TRANSFORMER}.attention_blocks.\2.to_k.",
    rf"{_MOTION}\.attention\.(\d)\.value\.": rf"{_THEIR_TRANSFORMER}.attention_blocks.\2.to_v.",
    rf"{_MOTION}\.attention\.(\d)\.out\.": rf"{_THEIR_TRANSFORMER}.attention_blocks.\2.to_out.0.",
    rf"{_MOTION}\.mlp_norm\.": f"{_THEIR_TRANSFORMER}.ff_norm.",
    rf"{_MOTION}\.mlp_in\.": f"{_THEIR_TRANSFORMER}.ff.net.0.proj.",
    rf"{_MOTION}\.mlp_out\.": f"{_THEIR_TRANSFORMER}.ff.net.2.",
}
"""Our names, as patterns, and theirs: ``[i]`` is the i-th third of the tensor, ``N+`` is N + 1."""


def official_name(ours: str) -> tuple[str, int | None]:
    """Their name for one of our parameters, and which third of their tensor it is where they keep three in one."""
    for pattern, replacement in NAMES.items():
        name, found = re.subn(pattern, replacement, ours)
        if found:
            name = re.sub(r"(\d)\+", lambda digit: str(int(digit[1]) + 1), name)
            name, _, third = name.partition("[")
            return name, int(third[:-1]) if third else None
    raise KeyError(ours)


def find_checkpoint(source: str | Path) -> Path:
    """The one checkpoint in a folder or repository, or the file that ``source`` already is.

    Raises:
        UserError: there is none, or more than one.
    """
    path = local_folder(source, ("*.pth", "*.safetensors"))
    if path.is_file():
        return path
    found = sorted(file for file in path.iterdir() if file.suffix in {".pth", ".pt", ".safetensors"})
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise UserError(f"{path} should hold one checkpoint (.pth or .safetensors) and has {names}: name the file")
    return found[0]


def size_of(tensors: dict[str, Tensor], path: Path) -> str:
    """Which of :data:`SIZES` a checkpoint is.

    Raises:
        UserError: none of them.
    """
    key = "pretrained.pos_embed"
    if key not in tensors:
        raise UserError(f"{path} is no checkpoint of Video-Depth-Anything: it has no {key}; take one of {HUB_IDS}")
    width = tensors[key].shape[-1]
    for name, config in SIZES.items():
        if config.encoder.width == width:
            return name
    known = ", ".join(f"{config.encoder.width} ({name})" for name, config in SIZES.items())
    raise UserError(f"{path} is a checkpoint of another size: its encoder is {width} wide, known are {known}")


def load_model(config: VideoDepthConfig, tensors: dict[str, Tensor], path: Path) -> VideoDepthModel:
    """The model with the checkpoint's weights, in single precision; every tensor must be there, fit and be used.

    Args:
        path: named in messages.

    Raises:
        UserError: a tensor is missing, unknown, or of another shape.
    """
    with torch.device("meta"):  # every value comes from the checkpoint
        model = VideoDepthModel(config)
    ours = model.state_dict()
    sources = {name: official_name(name) for name in ours}
    complaints = [f"unknown {key}" for key in tensors.keys() - {theirs for theirs, _ in sources.values()}]
    parts: dict[str, Tensor] = {}
    for name, (theirs, third) in sources.items():
        expected = list(ours[name].shape)
        if third is not None:
            expected[0] *= 3
        if theirs not in tensors:
            complaints.append(f"missing {theirs}")
        elif list(tensors[theirs].shape) != expected:
            complaints.append(f"{theirs} is {shape_text(tensors[theirs].shape)}, expected {shape_text(expected)}")
        else:
            part = tensors[theirs] if third is None else tensors[theirs].chunk(3)[third]
            parts[name] = part.to(torch.float32, copy=True)  # the file may change under what is mapped from it
    if complaints:
        raise UserError(f"{path} does not fit its configuration: {first_few(sorted(set(complaints)))}")
    model.load_state_dict(parts, assign=True)
    return model.eval().requires_grad_(False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a ``.safetensors`` file, or in a ``.pth`` of tensors alone.

    Raises:
        UserError: it is missing or damaged, or a pickle of more than tensors.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is a pickle of more than tensors, and reading it could run code, so it is not read: "
            "take the official file, or save its state dict alone"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is cut short, damaged or no checkpoint ({reason}): download it again") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path} holds no tensors by name: take the official file, or save its state dict alone")
    return tensors


def _unpickled(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings(action="ignore"):  # it warns of what it then refuses
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
