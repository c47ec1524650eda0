"""What the training loop asks of a batch, whatever is in it."""

from collections.abc import Sequence
from typing import Protocol, Self


class Samples(Protocol):
    """So many samples, which can be computed in parts: a dataclass of tensors."""

    def __len__(self) -> int:
        """How many samples."""

    def split(self, size: int) -> Sequence[Self]:
        """The same samples in pieces of ``size``, in their order."""
