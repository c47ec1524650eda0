"""The layers of a model, found by its structure, and what may be wrapped around each of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fathom.training.config import TrainingConfig


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The entries of the model's module lists that are trained: the layers of each stream, tower and expert."""
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    found = [layer for layers in lists for layer in layers if any(p.requires_grad for p in layer.parameters())]
    inner = {part for layer in found for part in layer.modules() if part is not layer}
    return [layer for layer in found if layer not in inner]


def entrances(layer: nn.Module) -> tuple[str, ...]:
    """The methods through which a layer is called: those of a stream's layer, which is cut in two, or ``forward``."""
    return ("project", "finish") if hasattr(layer, "project") and hasattr(layer, "finish") else ("forward",)


@contextmanager
def wrapped(model: nn.Module, config: TrainingConfig) -> Iterator[None]:
    """Each layer compiled, or computed again in the backward pass in place of being remembered, while this lasts."""
    layers = layers_of(model) if config.compile or config.recompute else []
    for layer in layers:
        for name in entrances(layer):
            call = getattr(layer, name)
            if config.compile:
                call = torch.compile(call)
            if config.recompute:
                call = partial(checkpoint, call, use_reentrant=False)
            setattr(layer, name, call)
    try:
        yield
    finally:
        for layer in layers:
            for name in entrances(layer):
                vars(layer).pop(name, None)
