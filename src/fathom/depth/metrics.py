"""How good is a depth map, how well is a codebook used, and do codes stand still where the depth does."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fathom.depth.depth_map import DepthKind, valid

LEAST_DISPARITY = 0.05
"""Relative inverse depth below this is measured as if it were this: its 0 is where its episode's farthest pixels happen
to lie, and an error relative to nearly nothing says nothing."""

STILL = 0.005
"""Depth that changes by less than this from one frame to the next stands still: metres by this share of themselves,
relative inverse depth by this share of its range."""


@dataclass(frozen=True)
class DepthError:
    """The error of predicted against true depth: both metric, or both relative inverse depth on one scale.

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
    kind: DepthKind = "metric",
) -> DepthError:
    """Compare two depth maps of one kind over the valid pixels; NaN where there are none.

    Relative inverse depth is compared as it is, without an alignment, and not below ``LEAST_DISPARITY``.
    """
    if kind == "relative_inverse":
        predicted, true = predicted.clamp(min=LEAST_DISPARITY), true.clamp(min=LEAST_DISPARITY)
    relative = (predicted - true).abs() / true
    ratio = torch.maximum(predicted / true, true / predicted)
    edge = depth_edges(true, valid) & valid
    return DepthError(
        abs_rel=relative[valid].mean().item(),
        delta_1=(ratio < 1.25)[valid].float().mean().item(),
        edge_abs_rel=relative[edge].mean().item(),
    )


def depth_edges(
    depth: Float[Tensor, "batch 1 height width"], valid: Bool[Tensor, "batch 1 height width"], jump: float = 0.05
) -> Bool[Tensor, "batch 1 height width"]:
    """Pixels whose 3x3 neighbourhood spans a relative jump of more than ``jump`` between valid pixels."""
    farthest = F.max_pool2d(depth.where(valid, -torch.inf), 3, stride=1, padding=1)
    nearest = -F.max_pool2d(-depth.where(valid, torch.inf), 3, stride=1, padding=1)
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


def still_tokens(
    before: Float[Tensor, "batch 1 size size"],
    after: Float[Tensor, "batch 1 size size"],
    grid: int,
    kind: DepthKind = "metric",
) -> Bool[Tensor, "batch tokens"]:
    """Which tokens of a ``grid`` x ``grid`` see the same depth in two frames, in their own patch of the picture.

    The same pixels of the patch are known in both frames, at least one is, and each of them stands still
    (:data:`STILL`).

    Args:
        before, after: depth that a tokenizer gets, in successive frames; 0 or NaN where it is not known.
    """
    known = valid(before)
    allowed = STILL * before if kind == "metric" else STILL
    moved = known & ((after - before).abs() >= allowed)
    return _any(known, grid) & ~_any(moved | (known != valid(after)), grid)


def token_flicker(
    before: Int[Tensor, "batch tokens"], after: Int[Tensor, "batch tokens"], still: Bool[Tensor, "batch tokens"]
) -> float | None:
    """The share of the still tokens whose code is another one in the next frame; ``None`` if no token is still."""
    return (before != after)[still].float().mean().item() if still.any() else None


def _any(pixels: Bool[Tensor, "batch 1 size size"], grid: int) -> Bool[Tensor, "batch tokens"]:
    """Whether there is such a pixel in each token's patch."""
    return F.max_pool2d(pixels.float(), pixels.shape[-1] // grid).flatten(1) > 0
