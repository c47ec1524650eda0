"""Where a training's metrics go beside ``metrics.jsonl``: TensorBoard, Weights & Biases; and what else they say."""

import os
import resource
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fathom.errors import UserError
from fathom.files import write_file
from fathom.training.settings import recorded
from fathom.training.throughput import GB, Precision, peak_of

Service = Literal["tensorboard", "wandb"]


class Tracker(Protocol):
    """A place for metrics."""

    def write(self, line: Mapping[str, float]) -> None:
        """Take a line of ``metrics.jsonl``; its ``step`` says when."""

    def close(self) -> None:
        """The run ends here, for now."""


def check_trackers(services: Sequence[Service]) -> None:
    """Refuse services that are not installed, before any work is done.

    Raises:
        UserError: a service's package is missing.
    """
    for service in services:
        try:
            import_module({"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}[service])
        except ImportError:
            raise UserError(
                f"training.track names {service!r}, which is not installed: pip install 'fathom-vla[tracking]'"
            ) from None


def open_trackers(services: Sequence[Service], folder: Path, step: int = 0) -> list[Tracker]:
    """The services, writing into the run's folder; a run that goes on goes on there too.

    Args:
        step: after which the run goes on; what was told of later ones before will be told again.

    Raises:
        UserError: a service's package is not installed.
    """
    check_trackers(services)
    opened: dict[Service, Callable[[Path, int], Tracker]] = {"tensorboard": _TensorBoard, "wandb": _WeightsAndBiases}
    return [opened[service](folder, step) for service in services]


class _TensorBoard:
    """Event files in ``tensorboard/``."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, line: Mapping[str, float]) -> None:
        for name, value in line.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(line["step"]))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run of W&B in ``wandb/``, with the run's settings; ``WANDB_MODE=offline`` keeps it there until ``wandb sync``.

    Its id is drawn once and kept in ``wandb/id``, so that a run that goes on is the same one. W&B itself leaves out
    steps that it has already.
    """

    def __init__(self, folder: Path, step: int) -> None:
        import wandb

        known = folder / "wandb" / "id"
        if not known.is_file():
            known.parent.mkdir(parents=True, exist_ok=True)
            write_file(known, uuid.uuid4().hex.encode())
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fathom"),
            dir=str(folder),
            name=folder.resolve().name,
            id=known.read_text(),
            resume="allow",
            config=recorded(folder),
        )

    def write(self, line: Mapping[str, float]) -> None:
        self._run.log({name: value for name, value in line.items() if name != "step"}, step=int(line["step"]))

    def close(self) -> None:
        self._run.finish()


class WorkCounter:
    """Counts the model's own work for one sample: three forward passes, as a backward pass is two.

    It is counted once, in the first forward pass, and as if all of it were trained: of frozen parts and of a depth
    tokenizer that encodes on the fly it is too much. Compiled layers cannot be counted: with them it is off.
    """

    def __init__(self, *, on: bool) -> None:
        self._on = on
        self._tflop: float | None = None

    @contextmanager
    def counting(self, samples: int) -> Iterator[None]:
        """A forward pass of so many samples runs inside."""
        if not self._on or self._tflop is not None:
            yield
            return
        with FlopCounterMode(display=False) as counter:
            yield
        self._tflop = 3 * counter.get_total_flops() / samples / 1e12

    def metrics(self, share: float) -> dict[str, Tensor]:
        """``tflop`` of a sample, times what share of the step's batch this is."""
        return {} if self._tflop is None else {"tflop": torch.tensor(share * self._tflop)}


def of_the_machine(
    line: Mapping[str, float], devices: int, device: torch.device, precision: Precision
) -> dict[str, float]:
    """What a line of metrics says of the machine's use.

    Args:
        line: with ``samples_per_s`` of all devices, and ``tflop`` a sample where the work is counted.

    Returns:
        ``samples_per_s_per_device``; ``memory_gb``, the most that this process has held so far; and with ``tflop``, on
        a device whose peak is known, ``mfu``: the share of the peak that the model's own work makes up. What is
        computed again in the backward pass is not the model's own.
    """
    told = {"samples_per_s_per_device": line["samples_per_s"] / devices, "memory_gb": _memory(device) / GB}
    peak = peak_of(device, precision) if "tflop" in line else None
    if peak:
        told["mfu"] = line["tflop"] * 1e12 * told["samples_per_s_per_device"] / peak.flops
    return told


def perplexity(counts: Tensor) -> Tensor:
    """How many equally frequent codes would vary as much as these counts do."""
    shares = counts.flatten() / counts.sum().clamp(min=1e-12)
    return torch.special.entr(shares).sum().exp()


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
