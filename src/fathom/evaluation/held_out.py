"""What a policy predicts on episodes that it did not learn from, against what was recorded there."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fathom.data.batch import Batch
from fathom.data.dataset import open_dataset
from fathom.depth.metrics import depth_error
from fathom.policies import Policy

FRAMES = 512
"""Measured unless told otherwise: a few of every held-out episode."""

_AT_ONCE = 32


@dataclass(frozen=True)
class HeldOut:
    """Errors on held-out frames, without a simulator.

    Attributes:
        frames: how many, spread evenly.
        action_error: mean ``|sampled - recorded|`` over the components of all steps that the episode has, in
            normalised units, where [-1, 1] is what the robot does.
        depth_abs_rel: mean ``|predicted - true| / true`` of the depth that the policy's depth expert sees; ``None``
            without one.
        depth_delta_1: share of its pixels within a factor of 1.25 of the truth.
    """

    frames: int
    action_error: float
    depth_abs_rel: float | None = None
    depth_delta_1: float | None = None


@torch.no_grad()
def measure_held_out(policy: Policy, dataset_path: Path, split: str | None, *, frames: int = FRAMES) -> HeldOut:
    """Let a policy act and see depth on up to ``frames`` frames of a split.

    The noise of each chunk is the same whatever the policy. The truth is the dataset's own ``main_depth`` (or its only
    depth feature), also for a policy that learned from another one.

    Args:
        split: ``None`` is the whole dataset.

    Raises:
        UserError: the dataset lacks a camera or depth that the policy has.
    """
    config = policy.config
    dataset = open_dataset(
        dataset_path, cameras=config.cameras, horizon=config.horizon, depth=config.depth is not None, split=split
    )
    chosen = np.linspace(0, len(dataset) - 1, min(frames, len(dataset))).astype(int)
    noise = torch.randn(len(chosen), *policy.noise_shape, generator=torch.Generator().manual_seed(0))
    errors: list[Tensor] = []
    true: list[Tensor] = []
    seen: list[Tensor] = []
    for begin in range(0, len(chosen), _AT_ONCE):
        batch = dataset.batch(chosen[begin : begin + _AT_ONCE].tolist()).to(policy.device)
        errors.append(_action_errors(policy, batch, noise[begin : begin + _AT_ONCE]))
        if policy.depth_tokenizer is not None and batch.depth is not None:
            true.append(policy.depth_tokenizer.true_depth(batch.depth).cpu())
            seen.append(policy.predict_depth(batch).cpu())
    action_error = torch.cat(errors).mean().item()
    if not true or policy.depth_tokenizer is None:
        return HeldOut(len(chosen), action_error)
    truth = torch.cat(true)
    depth = depth_error(torch.cat(seen), truth, truth.isfinite(), policy.depth_tokenizer.config.kind)
    return HeldOut(len(chosen), action_error, depth.abs_rel, depth.delta_1)


def _action_errors(policy: Policy, batch: Batch, noise: Float[Tensor, "batch horizon action"]) -> Float[Tensor, " n"]:
    """Of every component of every step that is no padding."""
    scaling = policy.scaling.actions
    sampled = policy.sample_actions(batch, noise.to(policy.device)).float()
    wrong = (scaling.normalize(sampled) - scaling.normalize(batch.actions)).abs()
    return wrong[~batch.action_is_pad].flatten().cpu()
