"""A training run's state on disk, so that a run killed at any instant goes on to the same weights."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fathom.config import read_json
from fathom.data.files import write_json
from fathom.errors import UserError

_SETTINGS, _STATE = "settings.json", "checkpoint.pt"


def claim(folder: Path, settings: Any) -> None:
    """Take a folder for a run with these settings, or take up the run that has them already.

    Raises:
        UserError: the folder holds a run with other settings.
    """
    ours = json.loads(json.dumps(asdict(settings)))
    path = folder / _SETTINGS
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, ours)
    elif difference := _difference(ours, read_json(path, "training run")):
        raise UserError(f"{folder} holds a run with other settings ({difference}): choose another folder or delete it")


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and numbers; the checkpoint before stays valid until this one is whole."""
    temporary = folder / f"{_STATE}.tmp"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / _STATE)


def load_state(folder: Path) -> dict[str, Any] | None:
    """What :func:`save_state` wrote last, or ``None``.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / _STATE
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is damaged ({error}): delete it to train from the start") from error


def remove_state(folder: Path) -> None:
    """Delete the checkpoint of a run that is done."""
    (folder / _STATE).unlink(missing_ok=True)


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> str | None:
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        here, there = ours.get(name), theirs.get(name)
        if isinstance(here, dict) and isinstance(there, dict):
            if inner := _difference(here, there, f"{prefix}{name}."):
                return inner
        elif here != there:
            return f"{prefix}{name} is {there} there and {here} here"
    return None
