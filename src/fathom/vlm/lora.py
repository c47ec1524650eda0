"""Low-rank adapters on the language model of a VLM."""

from typing import Any

import torch

from fathom.errors import UserError
from fathom.lora import LoRA
from fathom.vlm.qwen import LORA_TARGETS


def add_lora(vlm: Any, lora: LoRA) -> None:
    """Put adapters beside the projections of the language model and freeze everything else of the VLM.

    They begin as nothing, and are kept in fp32.

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("LoRA needs peft: pip install 'fathom-vla[lora]'") from None
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=LORA_TARGETS)
    inject_adapter_in_model(config, vlm)
    for name, parameter in vlm.named_parameters():
        adapter = is_lora(name)
        parameter.requires_grad_(adapter)
        if adapter:
            parameter.data = parameter.data.to(torch.float32)


def is_lora(name: str) -> bool:
    """Whether a weight of this name belongs to an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def merge_lora(vlm: Any) -> None:
    """Add the adapters to the weights that they stand beside, and remove them."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(vlm.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            vlm.set_submodule(name, module.get_base_layer())
