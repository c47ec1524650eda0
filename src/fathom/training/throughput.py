"""What devices can do at most, to say how much of it a training makes use of."""

import os
import time
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from fathom.errors import UserError

Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet.

    Attributes:
        memory: bytes.
        bf16: floating-point operations a second: dense, with sums in fp32.
        fp32: likewise, without TF32.
    """

    memory: float
    bf16: float
    fp32: float


GPUS: dict[str, Gpu] = {
    "B200": Gpu(180e9, 2250e12, 75e12),
    "H200": Gpu(141e9, 989e12, 67e12),
    "H100": Gpu(80e9, 989e12, 67e12),
    "A100": Gpu(80e9, 312e12, 19.5e12),
    "L40S": Gpu(48e9, 362e12, 91.6e12),
    "RTX 4090": Gpu(24e9, 165e12, 82.6e12),
    "RTX 3090": Gpu(24e9, 71e12, 35.6e12),
}
"""By a word of the name that torch has for them; of H100 and A100 the SXM with 80 GB."""

GB = 1e9


@dataclass(frozen=True)
class Peak:
    """What a device can do at most.

    Attributes:
        flops: floating-point operations a second.
        source: where the number comes from.
    """

    flops: float
    source: str


@cache
def peak_of(device: torch.device, precision: Precision) -> Peak | None:
    """That of a known GPU; a CPU's is measured; ``None`` for a GPU that is not in the table."""
    if device.type == "cpu":
        return Peak(_measured(precision), f"measured on this CPU: matrix products in {precision}")
    name = torch.cuda.get_device_name(device)
    known = next((key for key in GPUS if key in name), None)
    return Peak(getattr(GPUS[known], precision), f"{known}'s data sheet") if known else None


def memory_of(device: torch.device) -> int:
    """Bytes that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gpu_called(name: str) -> Gpu:
    """A GPU of the table.

    Raises:
        UserError: it is not there.
    """
    if name not in GPUS:
        raise UserError(f"the GPU {name!r} is not known here: it is one of {', '.join(GPUS)}, or give its numbers")
    return GPUS[name]


def _measured(precision: Precision, side: int = 1024, times: int = 3) -> float:
    """The best of a few matrix products."""
    square = torch.ones(side, side, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    seconds = []
    for _ in range(times + 1):  # the first one warms up
        begin = time.perf_counter()
        square @ square
        seconds.append(time.perf_counter() - begin)
    return 2 * side**3 / min(seconds[1:])
