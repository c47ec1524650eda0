"""How much memory a depth-aware VLM takes, before it is loaded."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from fathom.vlm.model import DepthVLM
from fathom.vlm.qwen import vision_tower

_GIB = 2**30
_FP32 = 4
_SUMMANDS = ("weights", "gradients", "optimizer", "activations", "cache")


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes, by what they are for; the first is exact, the rest are estimates of what dominates.

    Attributes:
        weights: all parameters in their own types.
        gradients: of what is trained.
        optimizer: AdamW's two moments, in fp32.
        activations: what the layers remember for the backward pass, and the logits in fp32.
        cache: keys and values of the language model while answering.
        checkpointing: whether the activations are those with gradient checkpointing.
    """

    weights: int
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    cache: int = 0
    checkpointing: bool = False

    @property
    def total(self) -> int:
        """Bytes of all."""
        return sum(getattr(self, name) for name in _SUMMANDS)

    def __str__(self) -> str:
        rows = {name: getattr(self, name) for name in (*_SUMMANDS, "total")}
        lines = {name: f"{name:<12}{size / _GIB:>9.2f} GiB" for name, size in rows.items()}
        if self.activations:
            lines["activations"] += f" ({'with' if self.checkpointing else 'without'} gradient checkpointing)"
        return "\n".join(lines.values())


def memory_plan(
    model: DepthVLM,
    *,
    tokens: int,
    patches: int = 0,
    batch: int = 1,
    training: bool = False,
    checkpointing: bool = False,
) -> MemoryPlan:
    """What a model needs; one on the meta device will do, so that nothing is loaded to know.

    Args:
        model: with the weights' types that it will have; what is trained is what requires a gradient.
        tokens: of a sequence, those of the picture and of depth included.
        patches: of a sequence's picture; its depth has as many.
        batch: sequences at once.
        checkpointing: with gradient checkpointing of the VLM; the depth encoder has none.
    """
    parameters = list({id(parameter): parameter for parameter in model.parameters()}.values())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    text = model.vlm.config.text_config
    size = model.vlm.get_input_embeddings().weight.element_size()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if not training:
        keys_and_values = 2 * text.num_hidden_layers * text.num_key_value_heads * head
        return MemoryPlan(weights, cache=keys_and_values * tokens * batch * size)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    attention = 2 * head * (text.num_attention_heads + text.num_key_value_heads)
    layer = 6 * text.hidden_size + attention + 4 * text.intermediate_size
    per_token = size * _remembered(layer, text.hidden_size, text.num_hidden_layers, checkpointing)
    return MemoryPlan(
        weights,
        gradients=sum(parameter.numel() * parameter.element_size() for parameter in trained),
        optimizer=2 * _FP32 * sum(parameter.numel() for parameter in trained),
        activations=((per_token + 2 * _FP32 * text.vocab_size) * tokens + _per_patch(model, checkpointing) * patches)
        * batch,
        checkpointing=checkpointing,
    )


def _remembered(layer: int, width: int, layers: int, checkpointing: bool) -> int:
    """Numbers that a stack of layers keeps of one token or patch.

    All of each layer; with checkpointing the input of each, and all of the one that is computed again. A layer of the
    language model keeps about six times its width (around two norms and two sums), queries and what attention gives,
    keys and values twice, and four times the inside of its gated MLP.
    """
    return width * layers + layer if checkpointing else layer * layers


def _per_patch(model: DepthVLM, checkpointing: bool) -> int:
    """Bytes of the vision tower, where a gradient passes through it, and of the depth encoder; the rest is small."""
    tower = vision_tower(model.vlm)
    pictures = 2 if model.config.packed else 1  # packed depth goes through the tower, too
    found = pictures * _of_tower(tower, checkpointing)
    return found + (_of_tower(model.depth_encoder.tower, False) if model.config.has_encoder else 0)


def _of_tower(tower: Any, checkpointing: bool) -> int:
    """A layer keeps twelve times its width, with all of attention, and of its MLP four insides, two without a gate."""
    kernel: nn.Parameter = tower.patch_embed.proj.weight
    if not kernel.requires_grad:  # then nothing is trained before the merger
        return 0
    config = tower.config
    inside = 4 if hasattr(tower.blocks[0].mlp, "gate_proj") else 2
    layer = 12 * config.hidden_size + inside * config.intermediate_size
    return kernel.element_size() * _remembered(layer, config.hidden_size, config.depth, checkpointing)
