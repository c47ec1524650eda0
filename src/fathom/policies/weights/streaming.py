"""A safetensors file written tensor by tensor, so that no more than one has to be in memory."""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fathom.files import atomically
from fathom.policies.weights.checkpoint import FLOATS, Entry


def write_safetensors(path: Path, entries: Mapping[str, Entry], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        entries: what is going to be written; the header, which comes first, needs to know it.
        tensors: each of them once, in any order; one is let go before the next is asked for.

    Raises:
        UserError: the disk is full.
        ValueError: other tensors came than were announced.
    """
    header, places = _layout(entries)
    with atomically(path) as temporary, temporary.open("wb") as file:
        file.write(header)
        for key, tensor in tensors:
            if key not in places or tensor.shape != entries[key].shape or tensor.dtype != FLOATS[entries[key].dtype]:
                raise ValueError(f"{key} was not announced, or otherwise, or came twice")
            file.seek(len(header) + places.pop(key))
            file.write(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
        if places:
            raise ValueError(f"announced, but did not come: {sorted(places)}")


def _layout(entries: Mapping[str, Entry]) -> tuple[bytes, dict[str, int]]:
    """The file's first bytes, and where behind them each tensor begins.

    The widest types come first, as in the library's own files: each tensor then begins at a multiple of its width.
    """
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    places, end = {}, 0
    for key in sorted(entries, key=lambda key: (-FLOATS[entries[key].dtype].itemsize, key)):
        shape, dtype = entries[key].shape, entries[key].dtype
        places[key], end = end, end + math.prod(shape) * FLOATS[dtype].itemsize
        described[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [places[key], end]}
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, places
