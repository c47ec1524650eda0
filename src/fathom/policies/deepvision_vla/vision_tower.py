"""Qwen3-VL's vision tower, run on pictures of one size."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionBlock, Qwen3VLVisionModel

from fathom.mixture import Mask, attend
from fathom.policies.deepvision_vla.vision_config import TowerConfig


class VisionTower(Qwen3VLVisionModel):
    """Transformers' tower with its parameters under their names; :meth:`encode` is its forward for a batch of pictures.

    Transformers packs pictures of different sizes into one sequence, and attends picture by picture. With one size
    there is a batch axis, one attention for all, and nothing whose shape depends on a value.

    Args:
        config: the sizes.
        out_width: of the language model's tokens.
    """

    def __init__(self, config: TowerConfig, out_width: int) -> None:
        super().__init__(config.qwen(out_width))
        self.blocks = nn.ModuleList(_Block(cast(Qwen3VLVisionBlock, block)) for block in self.blocks)
        self.side = config.image_size // config.patch

    def encode(
        self, pixels: Float[Tensor, "images 3 size size"]
    ) -> tuple[Float[Tensor, "images tokens out_width"], list[Float[Tensor, "images tokens out_width"]]]:
        """The image tokens, row by row, and what the language model's first layers add to them (DeepStack)."""
        hidden = self._patches(pixels) + self._learned_positions()
        rotary = self._rotary(pixels.device)
        seen = Mask(torch.ones(1, 1, self.side**2, self.side**2, dtype=torch.bool, device=pixels.device))
        deepstack = []
        for index, block in enumerate(self.blocks):
            hidden = block(hidden, rotary, seen)
            if index in self.deepstack_visual_indexes:
                merger = self.deepstack_merger_list[self.deepstack_visual_indexes.index(index)]
                deepstack.append(merger(hidden).unflatten(0, (len(pixels), -1)))
        return self.merger(hidden).unflatten(0, (len(pixels), -1)), deepstack

    def _patches(self, pixels: Tensor) -> Float[Tensor, "images patches width"]:
        # A still picture is a film of two equal frames: their kernels add up.
        kernel = self.patch_embed.proj.weight.sum(2).to(pixels.dtype)
        return self._in_order(F.conv2d(pixels, kernel, self.patch_embed.proj.bias, stride=self.patch_size))

    def _learned_positions(self) -> Float[Tensor, "1 patches width"]:
        """The learned grid, resampled to the pictures'."""
        grid = self.pos_embed.weight.mT.unflatten(1, (self.num_grid_per_side, self.num_grid_per_side))[None]
        mine = F.interpolate(grid.float(), (self.side, self.side), mode="bilinear", align_corners=True)
        return self._in_order(mine).to(grid.dtype)

    def _rotary(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The rotary cosine and sine of each patch's row and column, (patches, head_dim)."""
        axis = torch.arange(self.side, device=device, dtype=torch.float32)
        places = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))[None]
        angles = (self._in_order(places)[0, ..., None] * self.rotary_pos_emb.inv_freq.to(device)).flatten(1)
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()

    def _in_order(self, maps: Float[Tensor, "images width side side"]) -> Float[Tensor, "images patches width"]:
        """Patches in the order of the tower, in which those that become one token follow each other."""
        merge = self.spatial_merge_size
        patches = maps.unflatten(3, (-1, merge)).unflatten(2, (-1, merge)).permute(0, 2, 4, 3, 5, 1).flatten(1, 4)
        return patches.contiguous()  # transformers' mergers view it, and pictures may lie channels-last in memory


class _Block(nn.Module):
    """A block of transformers' with its own parameters, which takes a batch axis.

    It is called as a whole, because that is where training wraps a layer.
    """

    def __init__(self, block: Qwen3VLVisionBlock) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attn, self.mlp = block.norm1, block.norm2, block.attn, block.mlp

    def forward(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], seen: Mask) -> Tensor:
        """Hidden states (images, patches, width), in the tower's order."""
        qkv = self.attn.qkv(self.norm1(hidden)).unflatten(-1, (3, self.attn.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = _rotated(query, *rotary), _rotated(key, *rotary)
        attended = attend(query, key, value, seen).transpose(1, 2).flatten(2)
        hidden = hidden + self.attn.proj(attended)
        return hidden + self.mlp(self.norm2(hidden))


def _rotated(values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """In fp32, as there."""
    wide = values.float()
    first, second = wide.chunk(2, -1)
    return (wide * cosine + torch.cat([-second, first], -1) * sine).to(values.dtype)
