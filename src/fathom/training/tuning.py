"""What of a policy is trained: all of it, all but frozen parts, or low-rank adapters on the language model."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from torch import nn

from fathom.errors import UserError
from fathom.lora import LoRA
from fathom.policies import Policy
from fathom.policies.qdepth_vla import QDepthVLA

Part = Literal["vlm", "vision", "embeddings"]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def freeze(policy: Policy, parts: Sequence[Part]) -> None:
    """Take parts out of the training.

    The keys and values of a frozen language model still carry gradients to what stands before it, the vision
    tower above all.

    Args:
        parts: ``vlm``: the language model's layers and the projector before it; ``vision``: its vision tower;
            ``embeddings``: the language model's token embeddings, which open-pi-zero freezes.
    """
    for part in parts:
        for module in _modules(policy, part):
            module.requires_grad_(False)


def add_lora(policy: Policy, lora: LoRA) -> Any:
    """Put adapters on the language model, whose own weights are then frozen; returns what :func:`merge_lora` takes.

    They are merged into the weights at the end, so that the saved policy is an ordinary one.

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError:
        raise UserError("training with lora needs peft: pip install 'fathom-vla[lora]'") from None
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(PROJECTIONS))
    return LoraModel(policy.mixture.streams["vlm"], config, "default")


def merge_lora(adapted: Any) -> None:
    """Add the adapters to the weights that they stand beside, and remove them."""
    adapted.merge_and_unload()


def _modules(policy: Policy, part: Part) -> Iterable[nn.Module]:
    vlm: Any = policy.mixture.streams["vlm"]
    if part == "vision":
        return [policy.get_submodule("vision_tower")]
    if part == "embeddings":
        return [vlm.embed_tokens]
    # Qwen3-VL's projector is the end of its vision tower.
    projector = [policy.multi_modal_projector] if isinstance(policy, QDepthVLA) else []
    return [vlm.layers, vlm.norm, *projector]
