"""What a policy is, and the folder it lives in."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from jaxtyping import Float
from torch import Tensor, nn

from fathom.data.batch import Batch, Observation
from fathom.errors import UserError
from fathom.policies.card import Provenance, model_card


@dataclass(frozen=True)
class Losses:
    """The terms of a policy's loss, unweighted.

    Attributes:
        action: flow-matching error of the actions.
        depth: error of the predicted depth (cross-entropy where it is codes); ``None`` without a depth expert.
        depth_accuracy: share of depth tokens whose most likely code is the right one; ``None`` where there are none.
        future_depth: the depth loss of the frame ahead, where that is predicted too.
    """

    action: Float[Tensor, ""]
    depth: Float[Tensor, ""] | None = None
    depth_accuracy: Float[Tensor, ""] | None = None
    future_depth: Float[Tensor, ""] | None = None

    def total(self, depth_weight: float) -> Float[Tensor, ""]:
        """``L_action + lambda * (L_depth + L_future_depth)``."""
        depth = [loss for loss in (self.depth, self.future_depth) if loss is not None]
        return self.action + depth_weight * torch.stack(depth).sum() if depth else self.action


class Policy(nn.Module, ModelHubMixin, ABC):
    """From an observation to an action chunk.

    Of Hugging Face's mixin it has ``save_pretrained``, ``push_to_hub`` and ``from_pretrained``.
    """

    kind: ClassVar[str]
    """The name of the architecture in a saved policy's ``config.json``."""

    provenance: Provenance = Provenance()
    """What it was made from, and how."""

    @property
    @abstractmethod
    def noise_shape(self) -> tuple[int, int]:
        """(horizon, action) of the noise that one chunk starts from."""

    @property
    @abstractmethod
    def action_width(self) -> int:
        """Components of the robot's actions."""

    @property
    @abstractmethod
    def cameras(self) -> tuple[str, ...]:
        """The views that it wants to see."""

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator | None = None, whole: Batch | None = None) -> Losses:
        """The loss on a batch.

        Args:
            generator: draws noise and time.
            whole: the batch that this one is a part of; the losses of the parts add up to that of the whole.
        """

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
    def load(cls, folder: Path, values: dict[str, Any], dtype: torch.dtype = torch.float32) -> Self:
        """Read what :meth:`save` wrote; ``values`` are those of ``config.json``, ``dtype`` that of the weights."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **download: Any) -> Self:  # type: ignore[override]
        """The policy in a folder or of a hub id, see :func:`fathom.load_policy`.

        Args:
            download: what ``huggingface_hub.snapshot_download`` is told beside that: ``revision``, ``token`` …

        Raises:
            UserError: there is none, or it is of another kind.
        """
        from fathom.policies import load_policy

        policy = load_policy(pretrained_model_name_or_path, **download)
        if not isinstance(policy, cls):
            raise UserError(f"{pretrained_model_name_or_path} is a {policy.kind!r}, and a {cls.__name__} was asked for")
        return policy

    def generate_model_card(self, *_: Any, results: Sequence[str | Path] = (), **__: Any) -> ModelCard:
        """The model card: recipe, data, metrics and licence (``model_card_kwargs={"results": [...]}`` adds results)."""
        return model_card(self.kind, self.provenance, results)

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory)
