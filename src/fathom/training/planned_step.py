"""One step of a training that is only planned: how large its parts are, and what it costs to compute."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from fathom.data.batch import Batch, Whole
from fathom.data.dataset import LeRobotDataset
from fathom.data.draws import Draws
from fathom.policies import Policy
from fathom.training.config import TrainingConfig
from fathom.training.layers import layers_of, wrapped
from fathom.training.step_cost import StepCost, step_cost

FP32, BF16 = 4, 2


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters that memory depends on.

    Attributes:
        kept: that a device keeps.
        trained: in all.
        trained_share: of a device.
        largest_layer: the largest that is gathered by itself.
        outside: trained ones that are in no layer, which are gathered together.
    """

    kept: int
    trained: int
    trained_share: int
    largest_layer: int
    outside: int

    @classmethod
    def of(cls, policy: nn.Module, sharers: int) -> Self:
        """Those of a policy whose weights are divided among ``sharers`` devices."""
        layers = [sum(p.numel() for p in layer.parameters()) for layer in layers_of(policy)]
        inside = {p for layer in layers_of(policy) for p in layer.parameters()}
        trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
        outside = sum(p.numel() for p in policy.parameters() if p.requires_grad and p not in inside)
        alone = sum(p.numel() for p in policy.parameters() if not p.requires_grad and p not in inside)
        shared = sum(p.numel() for p in policy.parameters()) - alone
        return cls(alone + -(-shared // sharers), trained, -(-trained // sharers), max(layers, default=0), outside)

    def gathered(self, *, bf16: bool) -> int:
        """Bytes: a layer at work and the next one on its way, and what is in no layer with its gradients."""
        return 2 * self.largest_layer * (BF16 if bf16 else FP32) + 2 * FP32 * self.outside


def part_cost(policy: Policy, dataset: LeRobotDataset, training: TrainingConfig, part: int, devices: int) -> StepCost:
    """What the loss and the backward pass of ``part`` samples cost on one of ``devices`` devices.

    Args:
        policy: on the ``meta`` device; with bf16 on several devices its layers are bf16 afterwards.
    """
    bf16 = training.precision == "bf16"
    if bf16 and devices > 1:  # gathered in bf16 already: autocast makes no copies of these
        for layer in layers_of(policy):
            layer.to(torch.bfloat16)
    batch = _batch(policy, part, dataset)
    whole = Whole(
        torch.zeros(part, policy.config.horizon, dtype=torch.bool),
        torch.zeros(part, dtype=torch.bool) if batch.future_is_pad is not None else None,
    )
    policy.train()
    with wrapped(policy, training) if training.recompute else nullcontext():
        return step_cost(policy, lambda: policy.loss(batch, Draws(), whole).total(1.0), bf16=bf16)


def _batch(policy: Policy, size: int, dataset: LeRobotDataset) -> Batch:
    """Samples without values. Pictures are those that the network sees; the dataset's own are resized before."""
    config = policy.config
    side, state, action = config.image_size, *(len(s.offset) for s in (policy.scaling.state, policy.scaling.actions))
    depth: dict[str, Any] = {}
    if config.depth:
        target = config.depth.target
        one = (
            torch.zeros(size, config.depth.grid**2, dtype=torch.long, device="meta")
            if target == "codes"
            else torch.zeros(size, 1, config.depth.image_size, config.depth.image_size, device="meta")
        )
        name = "depth_codes" if target == "codes" else "depth"
        depth = {name: one}
        if config.depth.future:
            depth |= {f"future_{name}": one, "future_is_pad": torch.zeros(size, dtype=torch.bool, device="meta")}
    return Batch(
        images={name: torch.zeros(size, 3, side, side, dtype=torch.uint8, device="meta") for name in config.cameras},
        state=torch.zeros(size, state, device="meta"),
        instruction=[dataset.tasks[0]] * size,
        actions=torch.zeros(size, config.horizon, action, device="meta"),
        action_is_pad=torch.zeros(size, config.horizon, dtype=torch.bool, device="meta"),
        **depth,
    )
