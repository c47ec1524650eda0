"""What a transformer must offer to take part in a mixture."""

from collections.abc import Sequence
from typing import Any, Protocol

from jaxtyping import Float, Num
from torch import Tensor


class StreamLayer(Protocol):
    """One layer, cut in two at its attention.

    Norms, biases, position rotation, LayerScale and MLP stay inside; only q, k and v come out, in the head space
    that all streams of a mixture share.
    """

    def project(
        self, hidden: Float[Tensor, "batch tokens width"], positions: Any
    ) -> tuple[
        Float[Tensor, "batch heads tokens dim"],
        Float[Tensor, "batch kv_heads tokens dim"],
        Float[Tensor, "batch kv_heads tokens dim"],
    ]:
        """Everything before the attention: ``query, key, value``. ``positions`` is what the stream encoded."""
        ...

    def finish(
        self, hidden: Float[Tensor, "batch tokens width"], attended: Float[Tensor, "batch tokens heads*dim"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Everything after the attention: the layer's output, residuals included."""
        ...


class Stream(Protocol):
    """A transformer with its own width and weights, as a run of stream layers."""

    @property
    def layers(self) -> Sequence[StreamLayer]:
        """The layers, first to last."""
        ...

    def encode_positions(
        self, hidden: Float[Tensor, "batch tokens width"], positions: Num[Tensor, "batch tokens *axes"]
    ) -> Any:
        """What the layers need to know of the positions (the rotary table, say); computed once per pass, and again
        where only some tokens are kept."""
        ...

    def norm(self, hidden: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """The norm after the last layer."""
        ...
