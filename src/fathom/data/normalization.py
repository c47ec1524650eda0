"""From the robot's units to what a network likes, and back; saved with every policy."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fathom.data.features import ACTION, STATE
from fathom.errors import UserError
from fathom.files import write_json

NormalizationKind = Literal["quantile", "mean_std"]
TINY = 1e-4  # in the robot's units: a component that moves less than this is noise, and is not blown up


@dataclass(frozen=True)
class Scaling:
    """normalised = (value − offset) / scale, one offset and scale per component, clipped to [−1, 1] or not."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    clip: bool

    def normalize(self, values: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
        offset, scale = self._tensors(values)
        scaled = (values - offset) / scale
        return scaled.clamp(-1.0, 1.0) if self.clip else scaled

    def unnormalize(self, values: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
        offset, scale = self._tensors(values)
        return values * scale + offset

    def _tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if like.shape[-1] != len(self.offset):
            raise UserError(
                f"{like.shape[-1]} components are given, but the normalisation was made for {len(self.offset)}: "
                "the data and the policy are of different robots."
            )
        return _on(self, like.device, like.dtype)


@lru_cache(maxsize=64)
def _on(scaling: Scaling, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return (
        torch.tensor(scaling.offset, device=device, dtype=dtype),
        torch.tensor(scaling.scale, device=device, dtype=dtype),
    )


@dataclass(frozen=True)
class Normalization:
    """How a policy's state and actions are scaled: quantiles p01…p99 → [−1, 1], clipped; or mean and deviation."""

    kind: NormalizationKind
    state: Scaling
    actions: Scaling

    @classmethod
    def from_stats(cls, stats: Mapping[str, Mapping[str, Any]], kind: NormalizationKind = "quantile") -> Self:
        """From a dataset's statistics (``dataset.stats``).

        Raises:
            UserError: the statistics of state or action are missing.
        """
        return cls(kind, _scaling(stats, STATE, kind), _scaling(stats, ACTION, kind))

    def to_json(self) -> dict[str, Any]:
        def plain(scaling: Scaling) -> dict[str, Any]:
            return {"offset": list(scaling.offset), "scale": list(scaling.scale), "clip": scaling.clip}

        return {"kind": self.kind, "state": plain(self.state), "actions": plain(self.actions)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        def scaling(part: Mapping[str, Any]) -> Scaling:
            made = Scaling(tuple(map(float, part["offset"])), tuple(map(float, part["scale"])), bool(part["clip"]))
            if len(made.offset) != len(made.scale) or not np.isfinite([*made.offset, *made.scale]).all():
                raise ValueError("offset and scale are not finite vectors of one length")
            return made

        try:
            return cls(raw["kind"], scaling(raw["state"]), scaling(raw["actions"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"normalization.json: not readable ({error!r}); save the policy again.") from error

    def save(self, folder: Path) -> None:
        write_json(folder / "normalization.json", self.to_json())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads ``folder/normalization.json``; a policy does not run without it."""
        path = folder / "normalization.json"
        if not path.is_file():
            raise UserError(f"{path}: missing, and without it actions have no units; save the policy again.")
        try:
            raw = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path}: not readable ({error}); save the policy again.") from error
        return cls.from_json(raw)


def _scaling(stats: Mapping[str, Mapping[str, Any]], name: str, kind: NormalizationKind) -> Scaling:
    needed = ("q01", "q99") if kind == "quantile" else ("mean", "std")
    missing = [key for key in needed if key not in stats.get(name, {})]
    if missing:
        raise UserError(f"meta/stats.json: {missing[0]} of {name} is missing; compute the dataset's statistics again.")
    first, second = (np.asarray(stats[name][key], dtype=np.float64).reshape(-1) for key in needed)
    offset, scale = ((first + second) / 2, (second - first) / 2) if kind == "quantile" else (first, second)
    return Scaling(tuple(offset.tolist()), tuple(np.maximum(scale, TINY).tolist()), clip=kind == "quantile")
