"""Low-rank adapters on a language model: what may be chosen of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters on every projection of the language model, and of nothing else. Source: arXiv 2106.09685.

    Attributes:
        rank: of the adapters.
        alpha: their output is scaled by alpha / rank.
        dropout: on their input.

    Raises:
        ValueError: a rank below 1, or a dropout that is no share.
    """

    rank: int = 16
    alpha: int = 16
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"lora.rank is {self.rank}, lora.dropout {self.dropout}: at least 1, and from 0 to below 1"
            )
