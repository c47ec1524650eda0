"""The optimiser, its groups of weights, and the average of the weights."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from fathom.training.config import TrainingConfig
from fathom.training.distributed import own_part, whole_value

GROUPS: dict[str, tuple[str, ...]] = {
    "vlm": ("vision_tower", "multi_modal_projector", "mixture.streams.vlm"),
    "vision": ("mixture.streams.expert.own", "whole_expert.mixture"),
    "depth": ("depth_head", "mixture.streams.depth"),
    "action": ("",),
}
"""Where each group's weights are in a policy; what is in no other is of the action expert, or new."""

MOMENTS = ("exp_avg", "exp_avg_sq")


def group_of(name: str) -> str:
    """The group of a weight, by its name in the model."""
    return next(group for group, prefixes in GROUPS.items() if name.startswith(prefixes))


class Optimizer:
    """AdamW over the trained weights, in groups, with the average of the weights (``ema_decay``) beside them.

    Attributes:
        step: optimiser steps that are done.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        self.config, self.step = config, 0
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.groups: dict[str, list[Tensor]] = {}
        for name, parameter in self.trained.items():
            self.groups.setdefault(group_of(name), []).append(parameter)
        chosen = config.optimizer
        self.adam = torch.optim.AdamW(
            [{"params": parameters, "name": group} for group, parameters in self.groups.items()],
            lr=chosen.lr,
            weight_decay=chosen.weight_decay,
            betas=(chosen.beta_1, chosen.beta_2),
            fused=next(iter(self.trained.values())).is_cuda,
        )
        self.ema = {name: p.detach().clone() for name, p in self.trained.items()} if config.ema_decay else {}

    def norms(self) -> dict[str, Tensor]:
        """The norm of all gradients, ``grad_norm``, and where there are several groups that of each."""
        norms = {group: self._norm(parameters) for group, parameters in self.groups.items()}
        whole = torch.stack(list(norms.values())).square().sum().sqrt()
        apart = {f"grad_norm_{group}": norm for group, norm in norms.items()} if len(norms) > 1 else {}
        return {"grad_norm": whole, **apart}

    def update(self, norm: Tensor) -> None:
        """One step on the gradients that have come together, clipped by their ``norm``."""
        chosen = self.config.optimizer
        for group in self.adam.param_groups:
            group["lr"] = chosen.lr_at(self.step) * getattr(chosen.scale, group["name"])
        gradients = [own_part(p.grad) for p in self.trained.values() if p.grad is not None]
        torch._foreach_mul_(gradients, (chosen.clip_norm / (norm + 1e-6)).clamp(max=1))
        self.adam.step()
        self.skip()
        if self.ema:
            # Early on the average follows quickly, so that it does not remember the initial weights.
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            averages, weights = self.ema.values(), self.trained.values()
            torch._foreach_lerp_([own_part(t) for t in averages], [own_part(t.detach()) for t in weights], 1 - decay)

    def skip(self) -> None:
        """A step that changes no weights."""
        self.adam.zero_grad()
        self.step += 1

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint needs to know beside the model's own state, by name."""
        moments = {
            f"optimizer.{name}.{key}": value
            for name, parameter in self.trained.items()
            for key, value in self.adam.state.get(parameter, {}).items()
        }
        return {**moments, **{f"ema.{name}": tensor for name, tensor in self.ema.items()}}

    def expect(self, names: Collection[str]) -> None:
        """Make room for a checkpoint's tensors: of the optimiser's, only weights that had a gradient have some."""
        for name, parameter in self.trained.items():
            if f"optimizer.{name}.step" in names:
                count = torch.zeros((), device=parameter.device if parameter.is_cuda else "cpu")
                moments = {key: torch.zeros_like(parameter, requires_grad=False) for key in MOMENTS}
                self.adam.state[parameter] = {"step": count, **moments}

    @torch.no_grad()
    def average(self) -> None:
        """Put the averaged weights in the place of the last ones, where there are any."""
        for name, averaged in self.ema.items():
            own_part(self.trained[name]).copy_(own_part(averaged))

    def _norm(self, parameters: list[Tensor]) -> Tensor:
        gradients = [p.grad for p in parameters if p.grad is not None]
        return whole_value(nn.utils.get_total_norm(gradients)) if gradients else own_part(parameters[0]).new_zeros(())
