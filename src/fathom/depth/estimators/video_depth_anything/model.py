"""Video-Depth-Anything on transformers' DINOv2 (arXiv 2501.12375; parameters as in the public code)."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Dinov2Model

from fathom.depth.estimators.video_depth_anything.config import VideoDepthConfig
from fathom.depth.estimators.video_depth_anything.head import FrameFeatures, TemporalHead

_OFFSET = 0.1  # DINOv2 enlarges its position embeddings by (patches + 0.1) / trained patches, not by patches / trained


class VideoDepthModel(nn.Module):
    """Depth of windows of at most 32 frames: metres or relative inverse depth, as its weights were trained."""

    def __init__(self, config: VideoDepthConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Dinov2Model(config.encoder.dinov2())
        self.head = TemporalHead(config)

    def forward(self, clips: Float[Tensor, "clips time 3 height width"]) -> Float[Tensor, "clips time height width"]:
        """The depth of clips of normalised frames, each clip a window of its own."""
        count, time = clips.shape[:2]
        features = self.see(clips.flatten(0, 1))
        windows = torch.arange(count * time, device=clips.device).view(count, time)
        return self.depth(features, windows, torch.ones_like(windows, dtype=torch.bool)).unflatten(0, (count, time))

    def see(self, pixels: Float[Tensor, "frames 3 height width"]) -> FrameFeatures:
        """What each frame shows by itself.

        Args:
            pixels: normalised; height and width are multiples of the patch size.
        """
        height, width = pixels.shape[-2:]
        patch = self.config.encoder.patch_size
        grid = height // patch, width // patch
        hidden = self.encoder.embeddings.patch_embeddings(pixels)
        hidden = torch.cat([self.encoder.embeddings.cls_token.expand(len(hidden), -1, -1), hidden], 1)
        hidden = hidden + self._positions(grid).to(hidden.dtype)
        outputs = []
        for layer in self.encoder.encoder.layer[: max(self.config.encoder.intermediate_layers) + 1]:
            hidden = layer(hidden)
            outputs.append(hidden)
        taken = [self.encoder.layernorm(outputs[i])[:, 1:] for i in self.config.encoder.intermediate_layers]
        return self.head.of_frames(taken, grid)

    def depth(
        self, frames: FrameFeatures, windows: Int[Tensor, "windows time"], read: Bool[Tensor, "windows time"]
    ) -> Float[Tensor, "places height width"]:
        """The depth at those places of the windows that are ``read``, in their order.

        Args:
            frames: what :meth:`see` made of the frames.
            windows: which of them stands at each place of each window.
            read: the places whose depth is wanted; all of them see each other.
        """
        size, grid = (frames.fine.shape[-2], frames.fine.shape[-1]), (frames.coarse.shape[-2], frames.coarse.shape[-1])
        path = self.head.over_time(frames.coarse[windows], frames.coarsest[windows], size)[read]
        shown = windows[read]
        return self.head.to_depth(path, frames.fine[shown], frames.finest[shown], grid)

    def _positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 tokens width"]:
        positions = self.encoder.embeddings.position_embeddings
        side = math.isqrt(positions.shape[1] - 1)
        if grid == (side, side):
            return positions
        # transformers enlarges to the size instead, which gives other numbers
        scale = [(patches + _OFFSET) / side for patches in grid]
        table = positions[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        table = F.interpolate(table, scale_factor=scale, mode="bicubic")
        return torch.cat([positions[:, :1].float(), table.flatten(2).transpose(1, 2)], 1)
