"""What the network itself reads of an observation: tensors alone, so that everything behind them compiles."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """An observation in the network's own terms.

    Attributes:
        pixels: every camera's picture in [-1, 1] at the encoder's size, in the order of ``config.cameras``.
        text: token ids of the instruction, padded on the right to ``config.text_tokens``.
        text_valid: False for padding.
        state: normalised proprio, padded with zeros to ``config.state_dim``.
    """

    pixels: Float[Tensor, "batch cameras 3 size size"]
    text: Int[Tensor, "batch text"]
    text_valid: Bool[Tensor, "batch text"]
    state: Float[Tensor, "batch state"]
