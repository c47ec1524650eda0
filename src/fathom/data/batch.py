"""What a policy sees and what it learns from."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Observation:
    """What a policy sees at one moment, for a batch of B robots.

    Attributes:
        images: one picture per camera; uint8 in 0..255 or float in [0, 1].
        state: proprio, in the robot's own units (not normalised).
        instruction: one sentence per robot.
    """

    images: dict[str, Float[Tensor, "batch 3 height width"] | Int[Tensor, "batch 3 height width"]]
    state: Float[Tensor, "batch state"]
    instruction: list[str]

    def __len__(self) -> int:
        return len(self.instruction)

    def to(self, device: torch.device | str) -> Self:
        """The same observation with its tensors on ``device``."""
        moved: dict[str, Any] = {f.name: _to(getattr(self, f.name), device) for f in fields(self)}
        return replace(self, **moved)

    def split(self, size: int) -> list[Self]:
        """The rows in pieces of ``size``, in their order."""
        pieces: list[Self] = []
        for begin in range(0, len(self), size):
            rows = slice(begin, begin + size)
            pieces.append(replace(self, **{f.name: _rows(getattr(self, f.name), rows) for f in fields(self)}))
        return pieces


@dataclass(frozen=True)
class Batch(Observation):
    """An observation with what should have been done, and the depth that was measured.

    Attributes:
        actions: the action chunk, in the robot's own units.
        action_is_pad: True where the chunk runs past the end of its episode.
        depth: metres (or relative inverse depth) of the ``main`` camera; values <= 0 or NaN are invalid.
        depth_codes: the depth tokenizer's code indices of the ``main`` camera, where they were computed beforehand.
        index: each sample's frame index in its dataset.
        future_depth: ``depth`` as many frames ahead as the dataset was opened with; at an episode's end its last.
        future_depth_codes: the codes of that.
        future_is_pad: True where the frame ahead lies past the end of its episode; ``None`` if nothing ahead is read.
    """

    actions: Float[Tensor, "batch horizon action"]
    action_is_pad: Bool[Tensor, "batch horizon"]
    depth: Float[Tensor, "batch 1 height width"] | None = None
    depth_codes: Int[Tensor, "batch depth_tokens"] | None = None
    index: Int[Tensor, " batch"] | None = None
    future_depth: Float[Tensor, "batch 1 height width"] | None = None
    future_depth_codes: Int[Tensor, "batch depth_tokens"] | None = None
    future_is_pad: Bool[Tensor, " batch"] | None = None


@dataclass(frozen=True)
class Whole:
    """What of a step's whole batch counts: by this the losses of its parts are divided, so that they add up.

    The parts may be computed one after another, or by several processes.

    Attributes:
        action_is_pad: see :class:`Batch`, of all samples.
        future_is_pad: likewise; ``None`` if nothing ahead is read.
    """

    action_is_pad: Bool[Tensor, "batch horizon"]
    future_is_pad: Bool[Tensor, " batch"] | None = None

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """That of a batch which is no part of another."""
        return cls(batch.action_is_pad, batch.future_is_pad)

    def __len__(self) -> int:
        return len(self.action_is_pad)


def _to(value: object, device: torch.device | str) -> object:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: _to(item, device) for key, item in value.items()}
    return value


def _rows(value: Any, rows: slice) -> Any:
    if isinstance(value, dict):
        return {key: item[rows] for key, item in value.items()}
    return value if value is None else value[rows]
