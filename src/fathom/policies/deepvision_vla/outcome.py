"""What one pass of the network gives, and the loss that only one way of fusion has."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fathom.policies.policy import Losses


@dataclass(frozen=True)
class Outcome:
    """What one pass gives.

    Attributes:
        actions: the chunk, in normalised units.
        depth: the depth expert's output, where it was asked for.
        image: each camera's image tokens as they leave the middle layer of the language model.
    """

    actions: Float[Tensor, "batch horizon action"]
    depth: Float[Tensor, "batch tokens width"] | None
    image: Float[Tensor, "batch cameras tokens width"]


@dataclass(frozen=True)
class AlignedLosses(Losses):
    """The losses of a policy whose image tokens are trained to resemble a vision expert's.

    Attributes:
        alignment: weighted, as it is added.
    """

    alignment: Float[Tensor, ""] | None = None

    def total(self, depth_weight: float) -> Float[Tensor, ""]:
        """See :class:`Losses`."""
        rest = super().total(depth_weight)
        return rest if self.alignment is None else rest + self.alignment
