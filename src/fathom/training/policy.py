"""Co-training a policy with depth, or without."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from fathom.data.batch import Batch
from fathom.data.dataset import LeRobotDataset, known_split, open_dataset
from fathom.data.features import ACTION, STATE
from fathom.data.normalization import Normalization
from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.policies import load_policy
from fathom.policies.policy import Policy
from fathom.policies.qdepth_vla import QDepthVLA, QDepthVLAConfig
from fathom.policies.text import TextTokenizer
from fathom.training.batches import Batches, from_memory, from_workers, load_into_memory
from fathom.training.checkpoint import remove_state
from fathom.training.config import TrainingConfig
from fathom.training.device import pick_device
from fathom.training.loop import train
from fathom.training.settings import check, claim, dataset_fingerprint
from fathom.training.tokenizer import encode_all
from fathom.weights import fingerprint


@dataclass(frozen=True)
class PolicyRecipe:
    """A policy and how it is trained.

    Attributes:
        policy: sizes and choices; state, action and vocabulary sizes are taken from the dataset.
        training: the run.
        depth_weight: lambda at the start (paper: 0.01).
        depth_weight_end: the share of it that is left at the last step; in between it decays geometrically [D].
    """

    policy: QDepthVLAConfig = field(default_factory=QDepthVLAConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    depth_weight: float = 0.01
    depth_weight_end: float = 0.1

    def depth_weight_at(self, step: int) -> float:
        """``lambda_t = lambda_0 * gamma ** t``, with gamma such that the last step has ``depth_weight_end`` of it."""
        return self.depth_weight * self.depth_weight_end ** (step / max(1, self.training.steps - 1))


def train_policy(
    dataset_path: Path, recipe: PolicyRecipe, folder: Path, tokenizer: DepthTokenizer | None = None
) -> Policy:
    """Train a policy and save it in ``folder``, or go on with the one begun there.

    Raises:
        UserError: the dataset lacks a camera or depth that the policy needs, or the folder holds another run.
    """
    dataset = open_dataset(
        dataset_path,
        cameras=recipe.policy.cameras,
        horizon=recipe.policy.horizon,
        depth=recipe.policy.depth is not None,
        split=known_split(dataset_path, "train"),
    )
    if recipe.policy.depth and tokenizer is None:
        raise UserError("co-training with depth needs a depth tokenizer: train one first, or train without depth")
    made_from = {"dataset": dataset_fingerprint(dataset.root)}
    if recipe.policy.depth and tokenizer is not None:
        made_from["depth_tokenizer"] = fingerprint(tokenizer)
    check(folder, recipe, **made_from)
    if (folder / "config.json").is_file():
        return load_policy(folder).to(pick_device())
    policy = _build(dataset, recipe, tokenizer).to(pick_device())
    batches = _batches(dataset, recipe, policy)
    claim(folder, recipe, **made_from)

    def loss_of(batch: Batch, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        losses = policy.loss(batch, generator)
        weight = recipe.depth_weight_at(step)
        metrics = {"action_loss": losses.action}
        if losses.depth is not None and losses.depth_accuracy is not None:
            metrics |= {
                "depth_loss": losses.depth,
                "depth_accuracy": losses.depth_accuracy,
                "depth_weight": torch.tensor(weight),
            }
        return losses.total(weight), metrics

    train(policy, loss_of, batches, recipe.training, folder, label="policy")
    policy.eval().save(folder)
    remove_state(folder)
    return policy


def _build(dataset: LeRobotDataset, recipe: PolicyRecipe, tokenizer: DepthTokenizer | None) -> QDepthVLA:
    if missing := [name for name in (STATE, ACTION) if name not in dataset.info.features]:
        raise UserError(f"{dataset.root}: the dataset has no feature {missing[0]!r}, which a policy learns from")
    torch.manual_seed(recipe.training.seed)
    text = TextTokenizer.from_instructions(dataset.tasks)
    config = replace(
        recipe.policy,
        state_dim=dataset.info.features[STATE].shape[0],
        action_dim=dataset.info.features[ACTION].shape[0],
        vocab_size=text.vocab_size,
    )
    return QDepthVLA(config, Normalization.from_stats(dataset.stats), text, tokenizer if config.depth else None)


def _batches(dataset: LeRobotDataset, recipe: PolicyRecipe, policy: QDepthVLA) -> Batches:
    if not recipe.training.in_memory:
        return from_workers(dataset, recipe.training)
    memory = load_into_memory(dataset, recipe.policy.vision.image_size)
    codes = encode_all(policy.depth_tokenizer, memory) if policy.depth_tokenizer else None
    return from_memory(memory, recipe.training, codes)
