"""Transformers' SigLIP vision transformer as a stream."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer, SiglipVisionEmbeddings


class SiglipStreamLayer(SiglipEncoderLayer):
    """Transformers' SigLIP layer, cut in two at its attention; the parameters keep their names."""

    def project(self, hidden: Float[Tensor, "batch tokens width"], positions: object) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`StreamLayer`; positions are in the embeddings already."""
        attention = self.self_attn
        normed = self.layer_norm1(hidden)
        heads = (*normed.shape[:-1], attention.num_heads, attention.head_dim)
        query = attention.q_proj(normed).view(heads).transpose(1, 2)
        key = attention.k_proj(normed).view(heads).transpose(1, 2)
        value = attention.v_proj(normed).view(heads).transpose(1, 2)
        return query, key, value

    def finish(
        self, hidden: Float[Tensor, "batch tokens width"], attended: Float[Tensor, "batch tokens heads*dim"]
    ) -> Float[Tensor, "batch tokens width"]:
        """See :class:`StreamLayer`."""
        hidden = hidden + self.self_attn.out_proj(attended)
        return hidden + self.mlp(self.layer_norm2(hidden))


class SiglipStream(nn.Module):
    """SigLIP as a stream: the state dict of ``SiglipVisionModel``, its ``encoder.layers`` called ``layers`` and its
    ``post_layernorm`` ``norm``.

    Args:
        config: transformers' own configuration.
    """

    layers: Sequence[SiglipStreamLayer]
    prefix_tokens = 0

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = SiglipVisionEmbeddings(config)
        layers = (SiglipStreamLayer(config) for _ in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(layers)  # type: ignore[assignment]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def embed(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens width"]:
        """The patches of pictures in [-1, 1]."""
        return self.embeddings(pixels)

    def encode_positions(
        self, hidden: Float[Tensor, "batch tokens width"], positions: Float[Tensor, "batch tokens 2"]
    ) -> None:
        """Nothing: SigLIP's positions are learned, and in the embeddings already."""
