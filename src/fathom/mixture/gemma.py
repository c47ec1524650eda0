"""Transformers' Gemma as a stream."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GemmaConfig
from transformers.models.gemma.modeling_gemma import (
    GemmaDecoderLayer,
    GemmaRMSNorm,
    GemmaRotaryEmbedding,
    apply_rotary_pos_emb,
)


class GemmaStreamLayer(GemmaDecoderLayer):
    """Transformers' Gemma layer, cut in two at its attention; the parameters keep their names."""

    def project(
        self, hidden: Float[Tensor, "batch tokens width"], positions: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`StreamLayer`; ``positions`` are the rotary cosine and sine."""
        attention = self.self_attn
        normed = self.input_layernorm(hidden)
        heads = (*normed.shape[:-1], -1, attention.head_dim)
        query = attention.q_proj(normed).view(heads).transpose(1, 2)
        key = attention.k_proj(normed).view(heads).transpose(1, 2)
        value = attention.v_proj(normed).view(heads).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *positions)
        return query, key, value

    def finish(
        self, hidden: Float[Tensor, "batch tokens width"], attended: Float[Tensor, "batch tokens heads*dim"]
    ) -> Float[Tensor, "batch tokens width"]:
        """See :class:`StreamLayer`."""
        hidden = hidden + self.self_attn.o_proj(attended)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class GemmaStream(nn.Module):
    """A Gemma model as a stream: the state dict of ``GemmaModel``, with or without ``embed_tokens``.

    Args:
        config: transformers' own configuration.
        embed_tokens: also hold the token embeddings (the VLM does, the experts do not). Unlike Gemma's own, they come
            out unscaled: by how much an embedding is scaled differs between code bases and is the policy's to say.
    """

    layers: Sequence[GemmaStreamLayer]

    def __init__(self, config: GemmaConfig, *, embed_tokens: bool = False) -> None:
        super().__init__()
        self.config = config
        if embed_tokens:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = (GemmaStreamLayer(config, index) for index in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(layers)  # type: ignore[assignment]
        self.norm = GemmaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = GemmaRotaryEmbedding(config)

    def encode_positions(
        self, hidden: Float[Tensor, "batch tokens width"], positions: Int[Tensor, "batch tokens"]
    ) -> tuple[Tensor, Tensor]:
        """The rotary cosine and sine, each (batch, tokens, head_dim)."""
        return self.rotary_emb(hidden, positions)
