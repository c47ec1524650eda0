"""How good is a depth map, and how well is a codebook used."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class DepthError:
    """The error of predicted against true metric depth.

    Attributes:
        abs_rel: mean of ``|predicted - true| / true``.
        delta_1: share of pixels with ``max(predicted / true, true / predicted) < 1.25``.
        edge_abs_rel: ``abs_rel`` over the pixels at depth edges alone, where blur shows.
    """

    abs_rel: float
    delta_1: float
    edge_abs_rel: float


def depth_error(
    predicted: Float[Tensor, "batch 1 height width"],
    true: Float[Tensor, "batch 1 height width"],
    valid: Bool[Tensor, "batch 1 height width"],
) -> DepthError:
    """Compare two metric depth maps (metres) over the valid pixels; NaN where there are none."""
    relative = (predicted - true).abs() / true
    ratio = torch.maximum(predicted / true, true / predicted)
    edge = depth_edges(true) & valid
    return DepthError(
        abs_rel=relative[valid].mean().item(),
        delta_1=(ratio < 1.25)[valid].float().mean().item(),
        edge_abs_rel=relative[edge].mean().item(),
    )


def depth_edges(
    depth: Float[Tensor, "batch 1 height width"], jump: float = 0.05
) -> Bool[Tensor, "batch 1 height width"]:
    """Pixels whose 3x3 neighbourhood spans a relative depth jump of more than ``jump``."""
    farthest = F.max_pool2d(depth, 3, stride=1, padding=1)
    nearest = -F.max_pool2d(-depth, 3, stride=1, padding=1)
    return farthest / nearest > 1 + jump


@dataclass(frozen=True)
class CodebookUse:
    """How a codebook is used over many code indices.

    Attributes:
        usage: share of the codes that occur at all.
        perplexity: exp of the entropy of their frequencies; the number of codes if all are equally frequent.
        top_share: share of the most frequent code.
    """

    usage: float
    perplexity: float
    top_share: float


def codebook_use(indices: Int[Tensor, "*shape"], codes: int) -> CodebookUse:
    """Count how often each of ``codes`` codes occurs in ``indices``."""
    share = torch.bincount(indices.flatten().cpu(), minlength=codes).double()
    share = share / share.sum()
    entropy = -torch.special.xlogy(share, share).sum()
    return CodebookUse((share > 0).double().mean().item(), entropy.exp().item(), share.max().item())
