"""How much memory a depth-aware VLM takes, before it is loaded."""

from dataclasses import dataclass, fields

from fathom.vlm.model import DepthVLM

_GIB = 2**30
_FP32 = 4


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes, by what they are for; the first is exact, the rest are estimates of what dominates.

    Attributes:
        weights: all parameters in their own types.
        gradients: of what is trained.
        optimizer: AdamW's two moments, in fp32.
        activations: with gradient checkpointing: the input of each layer, the inside of one, the logits in fp32.
        cache: keys and values of the language model while answering.
    """

    weights: int
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    cache: int = 0

    @property
    def total(self) -> int:
        """Bytes of all."""
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        rows = {field.name: getattr(self, field.name) for field in fields(self)} | {"total": self.total}
        return "\n".join(f"{name:<12}{size / _GIB:>9.2f} GiB" for name, size in rows.items())


def memory_plan(model: DepthVLM, *, tokens: int, batch: int = 1, training: bool = False) -> MemoryPlan:
    """What a model needs; one on the meta device will do, so that nothing is loaded to know.

    Args:
        model: with the weights' types that it will have; what is trained is what requires a gradient.
        tokens: of a sequence, those of the picture and of depth included.
        batch: sequences at once.
    """
    parameters = list({id(parameter): parameter for parameter in model.parameters()}.values())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    text = model.vlm.config.text_config
    size = model.vlm.get_input_embeddings().weight.element_size()
    if not training:
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        keys_and_values = 2 * text.num_hidden_layers * text.num_key_value_heads * head
        return MemoryPlan(weights, cache=keys_and_values * tokens * batch * size)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    per_token = text.hidden_size * (text.num_hidden_layers + 8) * size + 3 * text.intermediate_size * size
    return MemoryPlan(
        weights,
        gradients=sum(parameter.numel() * parameter.element_size() for parameter in trained),
        optimizer=2 * _FP32 * sum(parameter.numel() for parameter in trained),
        activations=(per_token + 2 * _FP32 * text.vocab_size) * tokens * batch,
    )
