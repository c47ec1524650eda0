"""The losses of a depth expert, whichever policy it belongs to."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from fathom.data.batch import Batch, Whole
from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.policies.depth_expert.head import DepthHead
from fathom.policies.depth_expert.targets import Codes


def depth_losses(
    head: DepthHead,
    tokenizer: DepthTokenizer | None,
    hidden: Float[Tensor, "batch tokens width"],
    batch: Batch,
    whole: Whole,
) -> dict[str, Tensor]:
    """The terms ``depth``, ``depth_accuracy`` and ``future_depth`` of :class:`Losses`, where the expert has them.

    Args:
        hidden: the depth expert's output.
        whole: what counts of the batch that this one is a part of.

    Raises:
        UserError: the batch has no depth, or the policy no tokenizer to make codes of it.
    """
    target, predicted = head.target, head(hidden)
    wanted = _target(head, tokenizer, batch.depth, batch.depth_codes)
    losses = {"depth": target.error(predicted, wanted).sum() / len(whole)}
    if isinstance(target, Codes):
        losses["depth_accuracy"] = len(batch) / len(whole) * target.accuracy(predicted, wanted)
    if head.future_decoder:
        assert batch.future_is_pad is not None and whole.future_is_pad is not None
        ahead = _target(head, tokenizer, batch.future_depth, batch.future_depth_codes)
        error = target.error(head(hidden, ahead=True), ahead) * ~batch.future_is_pad
        losses["future_depth"] = error.sum() / (~whole.future_is_pad).sum().clamp(min=1)
    return losses


def _target(head: DepthHead, tokenizer: DepthTokenizer | None, depth: Tensor | None, codes: Tensor | None) -> Any:
    if codes is not None and isinstance(head.target, Codes):
        return codes
    if depth is None or tokenizer is None:
        raise UserError("co-training with depth needs depth in the batch and a depth tokenizer in the policy")
    return head.target.of(tokenizer, depth)
