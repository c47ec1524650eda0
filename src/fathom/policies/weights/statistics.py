"""How other code bases write down the scaling of state and actions."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fathom.config import read_json
from fathom.data.normalization import Normalization, Scaling
from fathom.errors import UserError
from fathom.policies.weights.checkpoint import Checkpoint, open_checkpoint

Vector = NDArray[np.float64]
_PROCESSOR = {"state": "observation.state.", "actions": "action."}
_BUFFERS = {"state": "normalize_inputs.buffer_observation_state.", "actions": "unnormalize_outputs.buffer_action."}


def open_pi_zero_normalization(path: Path) -> Normalization:
    """open-pi-zero's dataset statistics: p01 … p99 become −1 … 1, clipped.

    The last action component is the gripper: it is left as it is, unless the file has a ``mask`` that says otherwise.

    Raises:
        UserError: the file or one of its quantiles is missing or no list of finite numbers.
    """
    values = read_json(path, "file of dataset statistics")
    offset, scale = _between(values, "action", path)
    mask = values["action"].get("mask", [True] * (len(offset) - 1) + [False])
    if not isinstance(mask, list) or len(mask) != len(offset):
        raise UserError(f"{path}: action.mask should say for each of the {len(offset)} components whether it is scaled")
    actions = _scaling(np.where(mask, offset, 0.0), np.where(mask, scale, 1.0), clip=True)
    return Normalization("quantile", _scaling(*_between(values, "proprio", path), clip=True), actions)


def openpi_normalization(path: Path) -> Normalization:
    """openpi's ``norm_stats.json``: (value − mean) / (deviation + 1e-6).

    Raises:
        UserError: the file or one of its lists is missing or no list of finite numbers.
    """
    values = read_json(path, "file of norm_stats")
    return _mean_std(values.get("norm_stats", values), path, guard=1e-6)


def lerobot_normalization(checkpoint: Checkpoint) -> Normalization | None:
    """lerobot's: in a file beside the weights, or among them (before version 0.4); ``None`` if they were never set.

    Raises:
        UserError: the file is damaged, or they are there in part only.
    """
    beside = sorted(checkpoint.path.glob("policy_preprocessor_step_*_normalizer_processor.safetensors"))
    holder, prefixes = (open_checkpoint(beside[0]), _PROCESSOR) if beside else (checkpoint, _BUFFERS)
    found: dict[str, dict[str, Any]] = {part: {} for part in prefixes}
    for part, prefix in prefixes.items():
        for name in ("mean", "std"):
            if prefix + name in holder.entries:
                found[part][name] = holder.read(prefix + name).double().flatten().tolist()
    numbers = [number for part in found.values() for values in part.values() for number in values]
    if not numbers or np.isinf(numbers).any():  # base models are published with infinities among their weights
        return None
    return _mean_std(found, holder.path, guard=1e-8)


def _mean_std(values: Any, path: Path, *, guard: float) -> Normalization:
    def scaling(part: str) -> Scaling:
        mean, std = _vectors(values, part, ("mean", "std"), path)
        return _scaling(mean, std + guard, clip=False)

    return Normalization("mean_std", scaling("state"), scaling("actions"))


def _between(values: Any, part: str, path: Path) -> tuple[Vector, Vector]:
    """Offset and scale that take p01 to −1 and p99 to 1; the 1e-8 is open-pi-zero's guard."""
    low, high = _vectors(values, part, ("p01", "p99"), path)
    scale = (high - low + 1e-8) / 2
    return low + scale, scale


def _scaling(offset: Vector, scale: Vector, *, clip: bool) -> Scaling:
    return Scaling(tuple(offset.tolist()), tuple(scale.tolist()), clip)


def _vectors(values: Any, part: str, names: tuple[str, str], path: Path) -> list[Vector]:
    inside = values.get(part) if isinstance(values, dict) else None
    lists = [inside.get(name) if isinstance(inside, dict) else None for name in names]
    try:
        vectors = [np.asarray(numbers, dtype=np.float64) for numbers in lists]
    except (TypeError, ValueError):
        vectors = [np.asarray(np.nan)]
    if not all(v.ndim == 1 and v.size and np.isfinite(v).all() and v.size == vectors[0].size for v in vectors):
        raise UserError(f"{path}: {part} should have {' and '.join(names)}, two lists of as many finite numbers")
    return vectors
