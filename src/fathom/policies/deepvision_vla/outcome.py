"""What one pass of the network gives."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Outcome:
    """What one pass gives.

    Attributes:
        actions: the chunk, in normalised units.
        depth: the depth expert's output, where it was asked for.
        image: each camera's image tokens as they leave the middle layer of the language model, where they are trained
            to resemble a vision expert's output.
    """

    actions: Float[Tensor, "batch horizon action"]
    depth: Float[Tensor, "batch tokens width"] | None
    image: Float[Tensor, "batch cameras tokens width"] | None
