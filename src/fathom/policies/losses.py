"""What a policy is trained by."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fathom.data.batch import Batch, Whole


@dataclass(frozen=True)
class Losses:
    """The terms of a policy's loss; unweighted, but for ``alignment``.

    Attributes:
        action: error of the actions.
        depth: error of the predicted depth (cross-entropy where it is codes); ``None`` without a depth expert.
        depth_accuracy: share of depth tokens whose most likely code is the right one; ``None`` where there are none.
        future_depth: the depth loss of the frame ahead, where that is predicted too.
        alignment: how little the image tokens resemble a vision expert's, where they are trained to; as it is added.
    """

    action: Float[Tensor, ""]
    depth: Float[Tensor, ""] | None = None
    depth_accuracy: Float[Tensor, ""] | None = None
    future_depth: Float[Tensor, ""] | None = None
    alignment: Float[Tensor, ""] | None = None

    def total(self, depth_weight: float) -> Float[Tensor, ""]:
        """``L_action + L_alignment + lambda * (L_depth + L_future_depth)``."""
        depth = [loss for loss in (self.depth, self.future_depth) if loss is not None]
        total = self.action if self.alignment is None else self.action + self.alignment
        return total + depth_weight * torch.stack(depth).sum() if depth else total


def action_loss(
    error: Float[Tensor, "batch horizon action"], batch: Batch, whole: Whole, draws: int = 1
) -> Float[Tensor, ""]:
    """The mean of what counts of an error: the robot's own numbers, in the steps that its episode has.

    Args:
        error: of every row of the batch ``draws`` times in a row.
        whole: what counts of the batch that this one is a part of.
    """
    own = error[..., : batch.actions.shape[-1]].mean(-1)
    counts = ~batch.action_is_pad.repeat_interleave(draws, 0)
    return (own * counts).sum() / (draws * int((~whole.action_is_pad).sum().clamp(min=1)))
