"""A vision tower that reads depth."""

import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fathom.vlm.qwen import patches_per_token


class DepthEncoder(nn.Module):
    """A vision transformer like the VLM's own, of one input channel (seed 003, SPEC §2).

    It is transformers' own class. Its tokens lie in the space of the VLM's tower, from which it is initialised and with
    which it is aligned, so that the VLM's own merger can read them.
    """

    def __init__(self, rgb_tower: Any) -> None:
        """Shaped like ``rgb_tower``, with weights of its own.

        Args:
            rgb_tower: the VLM's, see :func:`fathom.vlm.qwen.vision_tower`.
        """
        super().__init__()
        config = copy.deepcopy(rgb_tower.config)
        config.in_channels = 1
        if hasattr(config, "deepstack_visual_indexes"):
            config.deepstack_visual_indexes = []
        self.tower = type(rgb_tower)._from_config(config, dtype=torch.float32)
        self.tower.merger = _SideBySide(patches_per_token(rgb_tower))

    @torch.no_grad()
    def start_from(self, rgb_tower: Any) -> None:
        """Take over the weights of an RGB tower; a patch kernel of one channel is the sum of the kernels of three.

        So depth means to the new tower what a grey picture means to the old one. The kernel's two temporal taps stay
        two: a still picture fills both, and so does depth.
        """
        weights = {k: v for k, v in rgb_tower.state_dict().items() if "merger" not in k.split(".")[0]}
        kernel = weights["patch_embed.proj.weight"]
        weights["patch_embed.proj.weight"] = kernel[:, :3].sum(dim=1, keepdim=True)
        self.tower.load_state_dict(weights)

    def forward(
        self, depth: Float[Tensor, "patches pixels"], grid: Int[Tensor, "images 3"]
    ) -> Float[Tensor, "patches width"]:
        """One token per patch, in the order of the input.

        Args:
            depth: see :func:`fathom.vlm.depth_encoding.one_channel`; patches in the order of the tower's input.
            grid: (1, rows, columns) of patches for each image.
        """
        frames = depth[:, None, :].expand(-1, self.tower.config.temporal_patch_size, -1).flatten(1)
        features = self.tower(frames, grid_thw=grid).pooler_output
        return features.reshape(len(depth), -1)


class _SideBySide(nn.Module):
    """Stands in the place of a merger: the patches of one token side by side, in the tower's order of output."""

    def __init__(self, patches: int) -> None:
        super().__init__()
        self.patches = patches

    def forward(self, hidden: Float[Tensor, "patches width"]) -> Float[Tensor, "tokens wide"]:
        return hidden.reshape(-1, self.patches * hidden.shape[-1])
