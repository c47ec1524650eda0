"""From samples of a dataset to what a policy learns from."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fathom.data.batch import Batch
from fathom.data.features import ACTION, IMAGES, MAIN_DEPTH, STATE, camera_name
from fathom.errors import UserError


def collate(samples: Sequence[Mapping[str, Any]]) -> Batch:
    """Stacks samples; cameras go by their short names (``observation.images.main`` → ``main``).

    ``depth`` is that of the camera ``main``, or the only one there is; None where no depth is read.

    Raises:
        UserError: state or action is missing, or there are several depth features and none is ``main_depth``.
    """
    first = samples[0]
    for name in (STATE, ACTION):
        if name not in first:
            raise UserError(f"the dataset has no feature {name!r}, which a policy needs; there is: {', '.join(first)}.")
    pictures = [name for name, value in first.items() if name.startswith(IMAGES) and isinstance(value, Tensor)]
    # by type, never by name: depth is the one that is measured in metres
    depth = depth_key([name for name in pictures if first[name].is_floating_point()])
    return Batch(
        images={camera_name(name): _stack(samples, name) for name in pictures if first[name].dtype == torch.uint8},
        state=_stack(samples, STATE),
        instruction=[sample["task"] for sample in samples],
        actions=_stack(samples, ACTION),
        action_is_pad=_stack(samples, "action_is_pad"),
        depth=_stack(samples, depth) if depth else None,
        index=_stack(samples, "index"),
    )


def depth_key(available: Sequence[str]) -> str | None:
    """Which of these depth features a policy learns."""
    if MAIN_DEPTH in available or not available:
        return MAIN_DEPTH if available else None
    if len(available) > 1:
        names = ", ".join(camera_name(name) for name in available)
        raise UserError(f"depth: {names} are read, but a policy learns one; open the dataset with depth=[…] of one.")
    return available[0]


def _stack(samples: Sequence[Mapping[str, Any]], name: str) -> Tensor:
    return torch.stack([sample[name] for sample in samples])
