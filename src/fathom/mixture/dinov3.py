"""Transformers' DINOv3 vision transformer as a stream."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
from transformers.models.dinov3_vit.modeling_dinov3_vit import (
    DINOv3ViTEmbeddings,
    DINOv3ViTLayer,
    DINOv3ViTRopePositionEmbedding,
    rotate_half,
)


class DINOv3StreamLayer(DINOv3ViTLayer):
    """Transformers' DINOv3 layer, cut in two at its attention; the parameters keep their names."""

    def project(
        self, hidden: Float[Tensor, "batch tokens width"], positions: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`StreamLayer`; ``positions`` are the rotary cosine and sine, or ``None`` for no rotation."""
        attention = self.attention
        normed = self.norm1(hidden)
        heads = (*normed.shape[:-1], attention.num_heads, attention.head_dim)
        query = attention.q_proj(normed).view(heads).transpose(1, 2)
        key = attention.k_proj(normed).view(heads).transpose(1, 2)
        value = attention.v_proj(normed).view(heads).transpose(1, 2)
        if positions is not None:
            query, key = _rotated(query, *positions), _rotated(key, *positions)
        return query, key, value

    def finish(
        self, hidden: Float[Tensor, "batch tokens width"], attended: Float[Tensor, "batch tokens heads*dim"]
    ) -> Float[Tensor, "batch tokens width"]:
        """See :class:`StreamLayer`."""
        hidden = hidden + self.drop_path(self.layer_scale1(self.attention.o_proj(attended)))
        return hidden + self.drop_path(self.layer_scale2(self.mlp(self.norm2(hidden))))


class DINOv3Stream(nn.Module):
    """DINOv3 as a stream: the state dict of ``DINOv3ViTModel``, its ``model.layer`` called ``layers``.

    Nothing here is random. DINOv3 scales its coordinates at random while it is trained; who wants that scales the
    positions.

    Args:
        config: transformers' own configuration.
    """

    layers: Sequence[DINOv3StreamLayer]

    def __init__(self, config: DINOv3ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = DINOv3ViTEmbeddings(config)
        for tokens in (self.embeddings.cls_token, self.embeddings.register_tokens):
            nn.init.trunc_normal_(tokens, std=config.initializer_range)
        layers = (DINOv3StreamLayer(config) for _ in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(layers)  # type: ignore[assignment]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.rope_embeddings = DINOv3ViTRopePositionEmbedding(config)

    @property
    def prefix_tokens(self) -> int:
        """The tokens that stand before the patches: CLS and the registers."""
        return 1 + self.config.num_register_tokens

    def embed(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens width"]:
        """CLS, registers and patches of pictures that are normalised as ImageNet's."""
        return self.embeddings(pixels)

    def encode_positions(
        self, hidden: Float[Tensor, "batch tokens width"], positions: Float[Tensor, "batch tokens 2"]
    ) -> tuple[Tensor, Tensor]:
        """The rotary cosine and sine, each (batch, tokens, head_dim), of patch centres (y, x) in [-1, 1].

        At (0, 0) nothing is rotated: that is where CLS and registers stand.
        """
        frequency = self.rope_embeddings.inv_freq.to(positions.device)
        angles = (2 * math.pi * positions.float()[..., None] * frequency).flatten(-2)
        angles = torch.cat([angles, angles], -1)
        return angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)


def patch_centres(rows: int, device: torch.device | str = "cpu") -> Float[Tensor, "patches 2"]:
    """The centres (y, x) of a square grid's patches, row by row, with the picture's edges at -1 and 1."""
    centre = 2 * (torch.arange(rows, device=device, dtype=torch.float32) + 0.5) / rows - 1
    return torch.stack(torch.meshgrid(centre, centre, indexing="ij"), -1).flatten(0, 1)


def _rotated(values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    return values * cosine[:, None] + rotate_half(values) * sine[:, None]
