"""Weights on disk: safetensors only, read strictly."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fathom.errors import UserError
from fathom.files import atomically


def save_weights(module: nn.Module, path: Path, *, without: Collection[str] = ()) -> None:
    """Write the state dict, whole or not at all: all but the entries under the prefixes ``without``."""
    with atomically(path) as temporary:
        save_file({k: v.contiguous() for k, v in module.state_dict().items() if not _under(k, without)}, temporary)


def load_weights(module: nn.Module, path: Path, *, without: Collection[str] = ()) -> None:
    """Read into ``module`` what :func:`save_weights` wrote, tensor by tensor; every entry must be there and fit.

    Args:
        without: prefixes of what is not read; there the module keeps its own values, whatever the file has.

    Raises:
        UserError: the file is missing or damaged, or its entries are not exactly those of the module.
    """
    expected = {k: v for k, v in module.state_dict().items() if not _under(k, without)}
    with _opened(path) as file:
        keys = [key for key in file.keys() if not _under(key, without)]  # noqa: SIM118 (no mapping)
        found = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
        complaints = [
            *(f"missing {key}" for key in expected.keys() - found.keys()),
            *(f"unknown {key}" for key in found.keys() - expected.keys()),
            *(
                f"{key} is {shape_text(found[key])}, expected {shape_text(expected[key].shape)}"
                for key in expected.keys() & found.keys()
                if found[key] != expected[key].shape
            ),
        ]
        if complaints:
            raise UserError(f"{path} does not fit its configuration: {first_few(complaints)}")
        with torch.no_grad():
            for key in found:
                expected[key].copy_(file.get_tensor(key))


@torch.no_grad()
def put_in_corner(parameter: Tensor, path: Path, key: str) -> None:
    """Fill a tensor with zeros, and its first corner with a smaller tensor of a file.

    Raises:
        UserError: the file lacks it, or it is larger.
    """
    with _opened(path) as file:
        if key not in file.keys():  # noqa: SIM118 (no mapping)
            raise UserError(f"{path} does not fit its configuration: missing {key}")
        theirs = file.get_tensor(key)
    if theirs.dim() != parameter.dim() or any(a > b for a, b in zip(theirs.shape, parameter.shape, strict=True)):
        told = f"{shape_text(theirs.shape)}, at most {shape_text(parameter.shape)} fits"
        raise UserError(f"{path} does not fit its configuration: {key} is {told}")
    parameter.zero_()
    parameter[tuple(slice(size) for size in theirs.shape)] = theirs.to(parameter)


def first_few(complaints: Collection[str], few: int = 5) -> str:
    """The first complaints in one line, and how many more there are."""
    more = f"; and {len(complaints) - few} more" if len(complaints) > few else ""
    return "; ".join(sorted(complaints)[:few]) + more


def shape_text(shape: Sequence[int]) -> str:
    """A shape as people say it: ``3x4``."""
    return "x".join(map(str, shape)) or "a scalar"


@contextmanager
def parameters_unset(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Modules built inside have parameters of this type, zero instead of drawn, for weights about to be loaded.

    At three billion parameters drawing those values takes longer than reading the weights that replace them.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with _NothingDrawn():
            yield
    finally:
        torch.set_default_dtype(before)


class _NothingDrawn(TorchFunctionMode):
    """Calls that fill a tensor with random numbers fill it with zeros, which any resampling accepts."""

    drawn: ClassVar[set[Any]] = {Tensor.normal_, Tensor.uniform_, Tensor.erfinv_}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0].zero_() if func in self.drawn else func(*args, **(kwargs or {}))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from None


def fingerprint(module: nn.Module) -> str:
    """Changes with any bit of any weight."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _under(key: str, prefixes: Collection[str]) -> bool:
    return any(key.startswith(f"{prefix}.") for prefix in prefixes)
