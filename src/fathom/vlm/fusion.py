"""Where depth meets RGB: what `positional`, `concat`, `adapter` and `rgbd` do to the vision tower's features."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fathom.vlm.compression import compressed
from fathom.vlm.depth_encoding import depth_positional_encoding
from fathom.vlm.qwen import into_tower_order, tower_order


def add_depth_positions(
    tokens: Float[Tensor, "tokens width"], cells: Float[Tensor, "tokens"], known: Bool[Tensor, "tokens"]
) -> Float[Tensor, "tokens width"]:
    """``positional``: each RGB token plus the encoding of its cell's depth; a cell of unknown depth stays as it is."""
    encoding = depth_positional_encoding(cells, tokens.shape[-1]) * known[:, None]
    return tokens + encoding.to(tokens.dtype)


def concat_depth(features: Any, tokens: Sequence[Float[Tensor, "depth width"]], deepstack: Any = None) -> Any:
    """``concat``: behind the tokens of each image those of its depth.

    Args:
        features: what ``get_image_features`` returns: it comes back changed.
        tokens: of each image's depth.
        deepstack: on Qwen3-VL, the features of each image's depth per deepstack layer; by default they are zero, so
            that depth enters the language model at its input alone.
    """
    features.pooler_output = _in_turn(features.pooler_output, tokens)
    if getattr(features, "deepstack_features", None) is not None:
        layers = features.deepstack_features
        behind = deepstack or [[torch.zeros_like(image) for image in tokens]] * len(layers)
        features.deepstack_features = [_in_turn(rgb, depth) for rgb, depth in zip(layers, behind, strict=True)]
    return features


class SideAdapter(nn.Module):
    """``adapter``: a side network beside the frozen vision tower (in the manner of HFIT).

    It starts from the depth features, reads the tower's hidden states at several layers, patch by patch, and adds to
    the last of them. No gradient passes through the tower. With its gate at zero, where it starts, nothing changes.
    """

    def __init__(self, tower_width: int, width: int, layers: Sequence[int]) -> None:
        """Build it.

        Args:
            tower_width: of the vision tower.
            width: of the side network.
            layers: which hidden states it reads; 0 would be the patch embedding, the last is the tower's output.
        """
        super().__init__()
        self.layers = list(layers)
        self.depth = nn.Sequential(nn.LayerNorm(tower_width), nn.Linear(tower_width, width))
        self.rgb = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(tower_width), nn.Linear(tower_width, width)) for _ in self.layers
        )
        self.mix = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in self.layers
        )
        self.out = nn.Linear(width, tower_width)
        self.gate = nn.Parameter(torch.zeros(tower_width))

    def forward(
        self,
        rgb: Sequence[Float[Tensor, "patches tower_width"]],
        depth: Float[Tensor, "patches tower_width"],
    ) -> Float[Tensor, "patches tower_width"]:
        """What is added to the tower's last hidden state.

        Args:
            rgb: the hidden states of ``layers``.
            depth: the depth features, in the same order.
        """
        side = self.depth(depth)
        for hidden, read, mix in zip(rgb, self.rgb, self.mix, strict=True):
            side = side + mix(side + read(hidden))
        return self.gate * self.out(side)


def adapted_tokens(
    adapter: SideAdapter, tower: Any, output: Any, depth: Float[Tensor, "patches width"], grid: Int[Tensor, "images 3"]
) -> Float[Tensor, "tokens llm_width"]:
    """The tokens that the tower's own merger makes of its last hidden state and the side network's correction.

    Args:
        output: of the tower, with the hidden states that the adapter reads.
        depth: in the order of the tower's input; it is brought into that of the hidden states.
    """
    precise = adapter.gate.dtype  # it trains in fp32 beside a tower in bf16
    hidden = [output.hidden_states[layer].to(precise) for layer in adapter.layers]
    added = adapter(hidden, into_tower_order(depth.to(precise), tower, grid)).to(output.last_hidden_state.dtype)
    return tower.merger(output.last_hidden_state + added)[tower_order(tower, grid).argsort()]


def depth_grid(grid: Int[Tensor, "images 3"], merge: int, factor: int) -> Int[Tensor, "images 3"]:
    """``concat``: the grid of patches that the depth tokens of each image seem to come from.

    Args:
        grid: (1, rows, columns) of patches of each image.
        merge: patches per token along each side.
        factor: of the compression.
    """
    rows_and_columns = compressed(grid[:, 1:] // merge, factor) * merge
    return torch.cat([grid[:, :1], rows_and_columns], dim=1)


def spread_layers(depth: int, count: int) -> list[int]:
    """``count`` hidden states, evenly spread over a tower of ``depth`` layers; the last is its output."""
    return sorted({max(1, depth * (place + 1) // count) for place in range(count)})


@torch.no_grad()
def add_depth_channel(tower: Any) -> None:
    """``rgbd``: the patch embedding reads a fourth channel, whose kernel is zero: so far nothing changes."""
    embed = tower.patch_embed
    kernel = embed.proj.weight
    embed.proj.weight = nn.Parameter(torch.cat([kernel, torch.zeros_like(kernel[:, :1])], dim=1))
    embed.proj.in_channels = 4
    embed.in_channels = tower.config.in_channels = 4


def keep_embedding_precise(tower: Any) -> None:
    """``rgbd``: the patch embedding, which is trained, is kept in fp32, whatever the type of the rest of the tower.

    In bf16 a step of a small learning rate is mostly rounded away. The blocks behind it see their own type.
    """
    tower.patch_embed.proj.float()
    tower.patch_embed.register_forward_hook(lambda _, __, embedded: embedded.to(_type_of(tower.blocks)))


def _type_of(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def with_depth_channel(
    pixels: Float[Tensor, "patches rgb"], depth: Float[Tensor, "patches pixels"]
) -> Float[Tensor, "patches rgbd"]:
    """``rgbd``: patches of RGB (channel, time, pixel) with depth as their fourth channel, the same at each time."""
    times = pixels.shape[1] // (3 * depth.shape[1])
    return torch.cat([pixels, depth.to(pixels.dtype).repeat(1, times)], dim=1)


def _in_turn(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    return [tensor for pair in zip(first, second, strict=True) for tensor in pair]
