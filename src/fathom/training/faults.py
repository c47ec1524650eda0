"""What a training run does when something goes wrong: a loss that is no number, or a signal to stop."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fathom.errors import UserError
from fathom.files import atomically, write_json
from fathom.training.config import TrainingConfig
from fathom.training.samples import Samples

TERMINATED = 128 + signal.SIGTERM
"""The exit code of a run that was told to stop, as a shell counts it."""


def handle_bad_step(
    batch: Samples, step: int, loss: float, norm: float, config: TrainingConfig, folder: Path, rank: int
) -> bool:
    """Whether a step is to be skipped, its loss or gradient being no finite number or its loss too large.

    The batch of a bad step is kept in ``bad_batches``: its tensors, and its words with the loss.

    Raises:
        UserError: the step is bad, and the run is to stop.
    """
    limit = float("inf") if config.loss_limit is None else config.loss_limit
    if loss <= limit and torch.isfinite(torch.tensor([loss, norm])).all():
        return False
    kept = folder / "bad_batches" / f"step-{step:08d}-rank-{rank}"
    _keep(batch, kept, {"step": step, "loss": loss, "grad_norm": norm})
    if config.on_bad_loss == "skip":
        return True
    what = f"above training.loss_limit {limit:g}" if limit < loss < float("inf") else "or its gradient no finite number"
    raise UserError(
        f"the loss is {loss:g} at step {step}, {what}: lower the learning rate, or give --training.on-bad-loss skip; "
        f"the batch is in {kept}.safetensors"
    )


@contextmanager
def told_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, as a cluster sends it before it takes a machine away."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


def _keep(batch: Samples, path: Path, words: dict[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    for name, value in vars(batch).items():
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, Mapping):
            tensors |= {f"{name}.{key}": tensor for key, tensor in value.items()}
        elif value is not None:
            words[name] = value
    with atomically(path.with_suffix(".safetensors")) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    write_json(path.with_suffix(".json"), words)
