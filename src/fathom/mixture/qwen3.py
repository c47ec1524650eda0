"""Transformers' Qwen3-VL language model as a stream."""

from collections.abc import Sequence

from jaxtyping import Float, Num
from torch import Tensor, nn
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLTextDecoderLayer,
    Qwen3VLTextRMSNorm,
    Qwen3VLTextRotaryEmbedding,
    apply_rotary_pos_emb,
)


class Qwen3StreamLayer(Qwen3VLTextDecoderLayer):
    """Transformers' Qwen3-VL layer, cut in two at its attention; the parameters keep their names."""

    def project(
        self, hidden: Float[Tensor, "batch tokens width"], positions: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`StreamLayer`; ``positions`` are the rotary cosine and sine."""
        attention = self.self_attn
        normed = self.input_layernorm(hidden)
        heads = (*normed.shape[:-1], -1, attention.head_dim)
        query = attention.q_norm(attention.q_proj(normed).view(heads)).transpose(1, 2)
        key = attention.k_norm(attention.k_proj(normed).view(heads)).transpose(1, 2)
        value = attention.v_proj(normed).view(heads).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *positions)
        return query, key, value

    def finish(
        self, hidden: Float[Tensor, "batch tokens width"], attended: Float[Tensor, "batch tokens heads*dim"]
    ) -> Float[Tensor, "batch tokens width"]:
        """See :class:`StreamLayer`."""
        hidden = hidden + self.self_attn.o_proj(attended)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Qwen3Stream(nn.Module):
    """Qwen3-VL's language model as a stream: the state dict of ``Qwen3VLTextModel``, with or without ``embed_tokens``.

    What Qwen3-VL adds to its image tokens after the first layers (DeepStack) is the caller's, see :meth:`Pass.add`.

    Args:
        config: transformers' own configuration.
        embed_tokens: also hold the token embeddings.
    """

    layers: Sequence[Qwen3StreamLayer]

    def __init__(self, config: Qwen3VLTextConfig, *, embed_tokens: bool = False) -> None:
        super().__init__()
        self.config = config
        if embed_tokens:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
            nn.init.normal_(self.embed_tokens.weight, std=config.initializer_range)
        layers = (Qwen3StreamLayer(config, index) for index in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(layers)  # type: ignore[assignment]
        self.norm = Qwen3VLTextRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = Qwen3VLTextRotaryEmbedding(config)

    def encode_positions(
        self, hidden: Float[Tensor, "batch tokens width"], positions: Num[Tensor, "batch tokens 3"]
    ) -> tuple[Tensor, Tensor]:
        """The rotary cosine and sine, each (batch, tokens, head_dim), of positions in time, height and width."""
        return self.rotary_emb(hidden, positions.permute(2, 0, 1))
