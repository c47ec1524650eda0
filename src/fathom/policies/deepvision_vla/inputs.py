"""What the network itself reads of an observation: tensors alone, so that everything behind them compiles."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """An observation in the network's own terms.

    Attributes:
        pixels: every camera's picture in [-1, 1] at the tower's size, in the order of ``config.cameras``.
        expert_pixels: the same as the vision expert sees it; ``None`` without one.
        words: token ids that are the same in every prompt, see :attr:`Layout.words`.
        text: token ids of the instruction, padded on the right to ``config.text_tokens``.
        text_valid: False for padding.
        state: normalised proprio, padded with zeros to ``config.state_dim``.
        expert_scale: of the vision expert's own coordinates, drawn at random in training; ``None`` for 1.
    """

    pixels: Float[Tensor, "batch cameras 3 size size"]
    expert_pixels: Float[Tensor, "batch cameras 3 expert_size expert_size"] | None
    words: Int[Tensor, "batch words"]
    text: Int[Tensor, "batch text"]
    text_valid: Bool[Tensor, "batch text"]
    state: Float[Tensor, "batch state"]
    expert_scale: Float[Tensor, ""] | None = None
