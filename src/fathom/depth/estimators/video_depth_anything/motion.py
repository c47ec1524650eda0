"""Motion modules: each place of a feature map reads the same place of the other frames."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fathom.depth.estimators.video_depth_anything.config import NORM_GROUPS, TEMPORAL_HEADS
from fathom.depth.estimators.video_depth_anything.windows import LENGTH

PLACES_AT_ONCE = 4096
"""Places are independent of each other; taking them in parts bounds the memory and the size of the attention's grid."""


class TemporalAttention(nn.Module):
    """Attention over time with absolute positions: ``x + attend(norm(x) + positions)``."""

    positions: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.register_buffer("positions", torch.zeros(1, LENGTH, width))  # sines, as the checkpoint has them

    def forward(self, tokens: Float[Tensor, "places time width"]) -> Float[Tensor, "places time width"]:
        """The tokens after reading each other."""
        told = self.norm(tokens)
        told = told + self.positions[:, : tokens.shape[1]].to(told.dtype)
        query, key, value = (
            project(told).unflatten(2, (TEMPORAL_HEADS, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        read = F.scaled_dot_product_attention(query, key, value)
        return tokens + self.out(read.transpose(1, 2).flatten(2))


class MotionModule(nn.Module):
    """Two attentions over time and a gated MLP, added to the feature map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(NORM_GROUPS, channels, eps=1e-6)
        self.project_in = nn.Linear(channels, channels)
        self.attention = nn.ModuleList(TemporalAttention(channels) for _ in range(2))
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp_in = nn.Linear(channels, 8 * channels)
        self.mlp_out = nn.Linear(4 * channels, channels)
        self.project_out = nn.Linear(channels, channels)

    def forward(
        self, maps: Float[Tensor, "windows time channels height width"]
    ) -> Float[Tensor, "windows time channels height width"]:
        """The feature maps of windows of frames after their places read each other over time."""
        windows, _, _, height, width = maps.shape
        normed = self.norm(maps.flatten(0, 1)).view(maps.shape)
        places = normed.permute(0, 3, 4, 1, 2).flatten(0, 2)
        moved = torch.cat([self._over_time(part) for part in places.split(PLACES_AT_ONCE)])
        return maps + moved.unflatten(0, (windows, height, width)).permute(0, 3, 4, 1, 2)

    def _over_time(self, places: Float[Tensor, "places time channels"]) -> Float[Tensor, "places time channels"]:
        tokens = self.project_in(places)
        for attention in self.attention:
            tokens = attention(tokens)
        value, gate = self.mlp_in(self.mlp_norm(tokens)).chunk(2, dim=-1)
        return self.project_out(tokens + self.mlp_out(value * F.gelu(gate)))
