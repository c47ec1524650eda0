"""A depth-aware VLM as a folder: whole, or what was added to a published VLM alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from fathom.config import parse_config, read_json, write_config
from fathom.errors import UserError
from fathom.files import atomically
from fathom.hub import local_folder, revision_of
from fathom.vlm.card import read_provenance, save_provenance
from fathom.vlm.config import DepthVLMConfig
from fathom.vlm.model import DepthVLM
from fathom.vlm.processor import DepthVLMProcessor
from fathom.vlm.qwen import FAMILIES, described, new_vlm, read_vlm
from fathom.weights import first_few, load_weights, parameters_unset, save_weights, shape_text

KIND = "depth_vlm"
_FILES = ("*.json", "*.jinja", "*.txt", "*.safetensors")
_WHOLE, _ADAPTERS = "model.safetensors", "adapters.safetensors"


def save_depth_vlm(model: DepthVLM, folder: Path, *, adapters_only: bool = False) -> None:
    """Write ``config.json``, weights, tokenizer and image processor; ``config.json`` comes last.

    Args:
        adapters_only: only what depth and LoRA have added, megabytes in place of gigabytes; the VLM itself is then
            read from ``config.base``.

    Raises:
        UserError: the adapters alone are asked for, and there are none, or no base that they could be put onto.
    """
    if adapters_only and model.config.base is None:
        raise UserError("the model began with random weights: its adapters mean nothing without them; save it whole")
    if adapters_only and model.config.lora is None:
        raise UserError(
            "the model has no adapters (they were merged, or all of it was trained): its VLM is no longer that of "
            "config.base; save it whole"
        )
    folder.mkdir(parents=True, exist_ok=True)
    model.processor.save(folder)
    save_provenance(model.provenance, folder)
    if adapters_only:
        added = {name: tensor.detach().cpu().contiguous() for name, tensor in model.depth_parameters().items()}
        with atomically(folder / _ADAPTERS) as temporary:
            save_file(added, temporary)
        write_config(model.config, folder / "config.json", kind=KIND)
    else:
        save_weights(model, folder / _WHOLE, without=_tied(model))
        write_config(model.config, folder / "config.json", kind=KIND, vlm=described(model.vlm))


def load_depth_vlm(
    source: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", **download: Any
) -> DepthVLM:
    """The model in a folder or of a hub id, ready to answer.

    Args:
        source: what :func:`save_depth_vlm` wrote, or a published Qwen2.5-VL or Qwen3-VL, which comes as it is
            (``fusion = none``).
        dtype: of the weights.
        download: what ``huggingface_hub.snapshot_download`` is told beside that: ``revision``, ``token`` …

    Raises:
        UserError: it is neither, or damaged.
    """
    folder = local_folder(source, _FILES, **download)
    values = read_json(folder / "config.json", "depth-aware VLM")
    if values.get("model_type") in FAMILIES:
        model = start_depth_vlm(source, DepthVLMConfig(fusion="none"), dtype=dtype, **download)
    elif values.pop("kind", None) == KIND:
        model = _read(folder, values, dtype, download.get("token"))
        model.provenance = read_provenance(folder)
    else:
        raise UserError(f"{folder / 'config.json'} describes no depth-aware VLM, and none of {', '.join(FAMILIES)}")
    for parameter in model.parameters():  # not the buffers: positions in bf16 would be wrong
        parameter.data = parameter.data.to(dtype)
    return model.to(device).eval()


def start_depth_vlm(
    base: str | Path, config: DepthVLMConfig, *, dtype: torch.dtype = torch.float32, **download: Any
) -> DepthVLM:
    """A published VLM with depth put onto it, ready to be aligned and fine-tuned.

    Args:
        base: hub id or folder of a Qwen2.5-VL or Qwen3-VL, or of a model saved whole with ``fusion = none`` and
            without LoRA; it takes the place of ``config.base``, and its commit that of ``config.base_revision``, which
            is asked for.
        dtype: of the VLM; what is added stays in fp32.

    Raises:
        UserError: it is no such VLM, or damaged.
    """
    folder = local_folder(base, _FILES, **{"revision": config.base_revision, **download})
    model = _onto(folder, config, str(base), dtype)
    model.start_encoder()
    return model


def outline_depth_vlm(base: str | Path, config: DepthVLMConfig, *, dtype: torch.dtype = torch.float32) -> DepthVLM:
    """What :func:`start_depth_vlm` would make, on the meta device: shapes and types without weights, at once.

    Raises:
        UserError: the base is no such VLM.
    """
    folder = local_folder(base, _FILES, revision=config.base_revision)
    values = read_json(folder / "config.json", "vision-language model")
    processor = DepthVLMProcessor.load(folder, config)
    with torch.device("meta"):
        vlm: nn.Module = new_vlm(values.get("vlm", values))
        return DepthVLM(config, vlm.to(dtype), processor)


def _onto(folder: Path, config: DepthVLMConfig, base: str, dtype: torch.dtype) -> DepthVLM:
    config = replace(config, base=base, base_revision=revision_of(folder))
    return DepthVLM(config, _vlm_in(folder, dtype), DepthVLMProcessor.load(folder, config))


def _vlm_in(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A checkpoint of transformers, or the VLM in a folder of ours to which depth has added nothing."""
    values = read_json(folder / "config.json", "vision-language model")
    if values.pop("kind", None) != KIND:
        return read_vlm(folder, dtype)
    if values.get("fusion") != "none" or values.get("lora") is not None or values.get("vlm") is None:
        raise UserError(f"{folder} has depth or adapters already: start from a VLM without (fusion = none, merged)")
    vlm: PreTrainedModel = _read(folder, values, dtype).vlm
    return vlm


def _read(folder: Path, values: dict[str, Any], dtype: torch.dtype, token: Any = None) -> DepthVLM:
    """The token opens the base, too, where adapters alone were saved."""
    described_vlm = values.pop("vlm", None)
    config = parse_config(DepthVLMConfig, values, folder / "config.json")
    if described_vlm is None:
        if config.base is None:
            raise UserError(f"{folder / 'config.json'} has adapters alone and names no base that they belong to")
        folder_of_base = local_folder(config.base, _FILES, token=token, revision=config.base_revision)
        model = _onto(folder_of_base, config, config.base, dtype)
        _load_adapters(model, folder / _ADAPTERS)
        return model
    with parameters_unset(dtype):
        model = DepthVLM(config, new_vlm(described_vlm), DepthVLMProcessor.load(folder, config))
    load_weights(model, folder / _WHOLE, without=_tied(model))
    return model


@torch.no_grad()
def _load_adapters(model: DepthVLM, path: Path) -> None:
    try:
        found = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from None
    expected = model.depth_parameters()
    complaints = [
        *(f"missing {name}" for name in expected.keys() - found.keys()),
        *(f"unknown {name}" for name in found.keys() - expected.keys()),
        *(
            f"{name} is {shape_text(found[name].shape)}, expected {shape_text(expected[name].shape)}"
            for name in expected.keys() & found.keys()
            if found[name].shape != expected[name].shape
        ),
    ]
    if complaints:
        raise UserError(f"{path} does not fit its configuration and base: {first_few(complaints)}")
    for name, tensor in found.items():
        expected[name].copy_(tensor)


def _tied(model: DepthVLM) -> tuple[str, ...]:
    """The language model's head, where it is the token embeddings and so already written."""
    vlm: Any = model.vlm
    return ("vlm.lm_head",) if vlm.lm_head.weight is vlm.get_input_embeddings().weight else ()
