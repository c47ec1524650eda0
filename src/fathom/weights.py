"""Weights on disk: safetensors only, read strictly."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fathom.errors import UserError
from fathom.files import atomically


def save_weights(module: nn.Module, path: Path, *, without: str | None = None) -> None:
    """Write the state dict, whole or not at all: all but the entries under the prefix ``without``."""
    with atomically(path) as temporary:
        save_file({k: v.contiguous() for k, v in module.state_dict().items() if not _under(k, without)}, temporary)


def load_weights(module: nn.Module, path: Path, *, without: str | None = None) -> None:
    """Read into ``module`` what :func:`save_weights` wrote; every entry must be there and fit.

    Raises:
        UserError: the file is missing or damaged, or its entries are not exactly those of the module.
    """
    try:
        found = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from None
    expected = {k: v for k, v in module.state_dict().items() if not _under(k, without)}
    complaints = [
        *(f"missing {key}" for key in expected.keys() - found.keys()),
        *(f"unknown {key}" for key in found.keys() - expected.keys()),
        *(
            f"{key} is {_shape(found[key])}, expected {_shape(expected[key])}"
            for key in expected.keys() & found.keys()
            if found[key].shape != expected[key].shape
        ),
    ]
    if complaints:
        shown = "; ".join(sorted(complaints)[:5]) + (f"; and {len(complaints) - 5} more" if len(complaints) > 5 else "")
        raise UserError(f"{path} does not fit its configuration: {shown}")
    module.load_state_dict(found, strict=without is None)


def fingerprint(module: nn.Module) -> str:
    """Changes with any bit of any weight."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _under(key: str, prefix: str | None) -> bool:
    return prefix is not None and key.startswith(f"{prefix}.")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
