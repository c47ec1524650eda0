"""What Fathom knows of transformers' Qwen2.5-VL and Qwen3-VL; nothing of them is copied or changed."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.vision_utils import get_vision_window_index

from fathom.config import read_json
from fathom.errors import UserError
from fathom.weights import first_few

FAMILIES: dict[str, tuple[type[Any], type[Any]]] = {
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
}
"""Configuration and model, by what a checkpoint's ``config.json`` calls its ``model_type``."""

LORA_TARGETS = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
"""The projections of the language model. A pattern of whole names, because Qwen2.5-VL's vision tower also has layers
called ``gate_proj``, ``up_proj`` and ``down_proj``."""


def new_vlm(values: dict[str, Any]) -> PreTrainedModel:
    """The VLM that a configuration describes, with the weights that transformers draws.

    Raises:
        UserError: its ``model_type`` is none of :data:`FAMILIES`.
    """
    config, model = _family(values.get("model_type"), "the configuration")
    return model(config.from_dict(values))


def read_vlm(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A checkpoint of transformers, from safetensors files alone.

    Raises:
        UserError: it is of another family, damaged, or lacks weights.
    """
    _, model = _family(read_json(folder / "config.json", "vision-language model").get("model_type"), str(folder))
    try:
        vlm, report = model.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder} cannot be read as a {model.__name__}: {str(error).splitlines()[0]}") from None
    if complaints := [f"missing {key}" for key in report["missing_keys"]]:
        raise UserError(f"the weights in {folder} do not fit its config.json: {first_few(complaints)}")
    return vlm


def described(vlm: PreTrainedModel) -> dict[str, Any]:
    """Its configuration as JSON values, from which :func:`new_vlm` builds its like."""
    values: dict[str, Any] = json.loads(vlm.config.to_json_string(use_diff=False))
    return values


def vision_tower(vlm: PreTrainedModel) -> Any:
    """The vision transformer and its merger."""
    return vlm.model.visual


def patches_per_token(tower: Any) -> int:
    """How many patches the merger makes into one token: 4. They are neighbours in the tower's input."""
    return int(tower.config.spatial_merge_size) ** 2


def tower_order(tower: Any, grid: Int[Tensor, "images 3"]) -> Int[Tensor, "tokens"]:
    """Where the tower keeps its tokens: place ``i`` of its hidden states holds token ``order[i]`` of its output.

    The output (and, by whole tokens, the input) runs row by row. Inside, Qwen2.5-VL goes window by window.
    """
    if not hasattr(tower, "window_size"):
        return torch.arange(int(grid.prod(dim=-1).sum()) // patches_per_token(tower), device=grid.device)
    order, _ = get_vision_window_index(
        grid,
        spatial_merge_size=tower.config.spatial_merge_size,
        window_size=tower.window_size,
        patch_size=tower.patch_size,
    )
    return order.to(grid.device)


def into_tower_order(
    patches: Float[Tensor, "patches width"], tower: Any, grid: Int[Tensor, "images 3"]
) -> Float[Tensor, "patches width"]:
    """Patches in the order of the tower's input, put into the order of its hidden states."""
    return patches.unflatten(0, (-1, patches_per_token(tower)))[tower_order(tower, grid)].flatten(0, 1)


def out_of_tower_order(
    patches: Float[Tensor, "patches width"], tower: Any, grid: Int[Tensor, "images 3"]
) -> Float[Tensor, "patches width"]:
    """Undo :func:`into_tower_order`."""
    back = tower_order(tower, grid).argsort()
    return patches.unflatten(0, (-1, patches_per_token(tower)))[back].flatten(0, 1)


def _family(name: Any, where: str) -> tuple[type[Any], type[Any]]:
    if name not in FAMILIES:
        raise UserError(f"{where} describes a {name!r}: a depth-aware VLM is made of one of {', '.join(FAMILIES)}")
    return FAMILIES[name]
