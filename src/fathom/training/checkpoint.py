"""A training run's state on disk, so that a run killed at any instant goes on to the same weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fathom.errors import UserError
from fathom.files import atomically


def checkpoint_path(folder: Path) -> Path:
    """Where a run's checkpoint is."""
    return folder / "checkpoint.pt"


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and numbers; the checkpoint before stays valid until this one is whole."""
    with atomically(checkpoint_path(folder)) as temporary:
        torch.save(state, temporary)


def load_state(folder: Path) -> dict[str, Any] | None:
    """What :func:`save_state` wrote last, or ``None``.

    Raises:
        UserError: the file is damaged.
    """
    path = checkpoint_path(folder)
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is damaged ({error}): delete it to train from the start") from error


def remove_state(folder: Path) -> None:
    """Delete the checkpoint of a run that is done."""
    checkpoint_path(folder).unlink(missing_ok=True)
