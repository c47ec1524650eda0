"""What one part of a training step costs, found out without computing it: on torch's ``meta`` device.

There tensors have shapes and no values. The model's own loss and its backward pass run as they would in training; what
is counted is every floating-point operation, and how many bytes are alive at the worst moment.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Self
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class StepCost:
    """What the forward and the backward pass of one part of a batch cost.

    Attributes:
        flops: floating-point operations; a product and a sum are two.
        bytes: the most that is alive at once beside weights, their gradients and the batch: what the layers keep for
            the backward pass, what is being computed, and with bf16 the weights' copies in it.
    """

    flops: int
    bytes: int


def step_cost(model: nn.Module, loss: Callable[[], Tensor], *, bf16: bool) -> StepCost:
    """Run ``loss`` and its backward pass on the ``meta`` device and count.

    Args:
        model: on the ``meta`` device.
        loss: computes the loss; its batch is on the ``meta`` device too.
        bf16: compute as autocast does in training.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:  # gradients have their own line in a plan: here they are there already
            parameter.grad = torch.zeros_like(parameter)
    with _Meter() as meter, _autocast(bf16):
        loss().backward()
    return StepCost(meter.flops, meter.most)


class _Meter(TorchDispatchMode):
    """Operations that run inside, and the bytes of all tensors that were made inside and are still alive.

    Views count once, with what they are views of.

    Attributes:
        flops: floating-point operations, by torch's own formulas.
        now: at this moment.
        most: at the worst one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.now = self.most = 0
        self._known: dict[int, int] = {}

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What is made in place or as a view has the storage of an argument, which may be older than this mode.
        old = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        if func is torch.ops.aten.native_layer_norm.default:
            # On this device alone its output would keep the input's strides, which not every view can take.
            args = (args[0].contiguous(), *args[1:])
        result = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(getattr(func, "_overloadpacket", None)):
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == "meta":
                self._note(tensor.untyped_storage(), old)
        return result

    def _note(self, storage: Any, old: set[int]) -> None:
        key = id(storage)
        if key in self._known or key in old:
            return
        self._known[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._known.pop(key)


_PRODUCTS: tuple[tuple[Any, str], ...] = (
    (F, "linear"),
    (F, "conv2d"),
    (F, "scaled_dot_product_attention"),
    (torch, "matmul"),
    (torch, "bmm"),
    (torch, "baddbmm"),
    (Tensor, "matmul"),
    (Tensor, "__matmul__"),
)


@contextmanager
def _autocast(on: bool) -> Iterator[None]:
    """What ``torch.autocast`` does, on the ``meta`` device, which has none; parts of a model may turn it off.

    Matrix products and convolutions take bf16, and a weight is converted once. It is patched in, because a torch
    function mode would not last through the backward pass, where layers may be computed again.
    """
    products = _Products(on)

    @contextmanager
    def switched(*_: Any, enabled: bool = True, **__: Any) -> Iterator[None]:
        before, products.on = products.on, on and enabled
        try:
            yield
        finally:
            products.on = before

    with ExitStack() as stack:
        stack.enter_context(patch.object(torch, "autocast", switched))
        for owner, name in _PRODUCTS if on else ():
            stack.enter_context(patch.object(owner, name, products.of(getattr(owner, name))))
        yield


class _Products:
    """Functions that take bf16 in place of fp32, while it is ``on``."""

    def __init__(self, on: bool) -> None:
        self.on = on
        self._weights: dict[int, Tensor] = {}

    def of(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The function, with its arguments converted."""

        @wraps(function)
        def product(*args: Any, **kwargs: Any) -> Tensor:
            if self.on:
                args, kwargs = tree_map_only(Tensor, self._half, (args, kwargs))
            return function(*args, **kwargs)

        return product

    def _half(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if not tensor.is_leaf or not tensor.requires_grad:
            return tensor.to(torch.bfloat16)
        if id(tensor) not in self._weights:
            self._weights[id(tensor)] = tensor.to(torch.bfloat16)
        return self._weights[id(tensor)]
