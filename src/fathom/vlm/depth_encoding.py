"""Depth as numbers that networks were made for: three channels, sinusoids, one normalised channel."""

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from fathom.depth.depth_map import LogRange

SPREAD = 4.0
"""How far depth's channel spreads: from -2 to 2, like the normalised RGB that a depth encoder's first weights know."""


def pack_millimetres(depth: Int[Tensor, "*shape height width"]) -> UInt8[Tensor, "*shape 3 height width"]:
    """Depth in whole millimetres as an RGB picture that loses nothing (SpatialBot, SPEC §2).

    The first channel steps every 1024 mm by 4, the second every 32 mm by 8, the third every millimetre by 8, so that
    neighbouring depths have similar colours. Resize before packing: colours in between mean other depths.

    Args:
        depth: 0 to 65535; 0 where it is not known.
    """
    channels = (depth // 1024 * 4, depth // 32 * 8 % 256, depth % 32 * 8)
    return torch.stack(channels, dim=-3).to(torch.uint8)


def unpack_millimetres(picture: UInt8[Tensor, "*shape 3 height width"]) -> Int[Tensor, "*shape height width"]:
    """Undo :func:`pack_millimetres`."""
    red, green, blue = picture.long().unbind(dim=-3)
    return red // 4 * 1024 + green // 8 * 32 + blue // 8


def depth_positional_encoding(depth: Float[Tensor, "*shape"], width: int) -> Float[Tensor, "*shape {width}"]:
    """SD-VLM's encoding of a number (SPEC §2): ``PE[2k] = sin(d w_k)``, ``PE[2k+1] = cos(d w_k)``.

    ``w_k = 10000^(-k / (width / 2))``; in fp32 whatever the depth's type, and without parameters.

    Args:
        depth: as it comes out of :func:`min_max`.
        width: of the language model; even.
    """
    k = torch.arange(width // 2, device=depth.device, dtype=torch.float32)
    angles = depth.float()[..., None] * 10000 ** (-k / (width / 2))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def min_max(depth: Float[Tensor, "cells"], known: Bool[Tensor, "cells"], alpha: float) -> Float[Tensor, "cells"]:
    """The depth of one image from 0 (its smallest known value) to ``alpha`` (its largest); 0 where all are alike."""
    low = depth.masked_fill(~known, torch.inf).min()
    high = depth.masked_fill(~known, -torch.inf).max()
    scaled = (depth - low) / (high - low).clamp_min(1e-6) * alpha
    return scaled.where(known, torch.zeros_like(scaled))


def pool_cells(
    depth: Float[Tensor, "patches pixels"], patches_per_cell: int
) -> tuple[Float[Tensor, "cells"], Bool[Tensor, "cells"]]:
    """The mean depth of each token's cell over its known pixels, and which cells have any.

    Args:
        depth: in the order of the vision tower's patches, where those of one token are neighbours; 0: not known.
    """
    cells = depth.float().reshape(-1, patches_per_cell * depth.shape[-1])
    count = (cells > 0).sum(dim=-1)
    return cells.sum(dim=-1) / count.clamp_min(1), count > 0


def one_channel(depth: Float[Tensor, "*shape"], depth_range: LogRange | None) -> Float[Tensor, "*shape"]:
    """Depth as one channel of a network made for normalised RGB: about -2 (near 0) to 2; 0 where it is not known.

    Args:
        depth: metres with a ``depth_range``, else relative inverse depth from 0 to 1; 0 where it is not known.
    """
    values = depth if depth_range is None else depth_range.normalize(depth)
    return ((values - 0.5) * SPREAD).where(depth > 0, torch.zeros_like(values))
