"""What a policy is, and the folder it lives in."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fathom.data.batch import Batch, Observation


@dataclass(frozen=True)
class Losses:
    """The terms of a policy's loss, unweighted.

    Attributes:
        action: flow-matching error of the actions.
        depth: cross-entropy of the depth codes; ``None`` without a depth expert.
        depth_accuracy: share of depth tokens whose most likely code is the right one.
    """

    action: Float[Tensor, ""]
    depth: Float[Tensor, ""] | None = None
    depth_accuracy: Float[Tensor, ""] | None = None

    def total(self, depth_weight: float) -> Float[Tensor, ""]:
        """``L_action + lambda * L_depth``."""
        return self.action if self.depth is None else self.action + depth_weight * self.depth


class Policy(nn.Module, ABC):
    """From an observation to an action chunk."""

    kind: ClassVar[str]
    """The name of the architecture in a saved policy's ``config.json``."""

    @property
    @abstractmethod
    def noise_shape(self) -> tuple[int, int]:
        """(horizon, action) of the noise that one chunk starts from."""

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """The loss on a batch; ``generator`` draws noise and time."""

    @abstractmethod
    def sample_actions(
        self, observation: Observation, noise: Float[Tensor, "batch horizon action"] | None = None
    ) -> Float[Tensor, "batch horizon action"]:
        """An action chunk in the robot's own units; ``noise`` is where the flow starts (default: drawn)."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a folder that needs nothing else; ``config.json`` comes last, so that a folder with one is whole."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, values: dict[str, Any]) -> Self:
        """Read what :meth:`save` wrote; ``values`` are those of ``config.json``."""
