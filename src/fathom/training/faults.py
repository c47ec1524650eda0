"""What a training run does when something goes wrong: a loss that is no number, or a signal to stop."""

import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from fathom.errors import UserError
from fathom.files import atomically, write_json
from fathom.training.config import TrainingConfig
from fathom.training.samples import Samples

TERMINATED = 128 + signal.SIGTERM
"""The exit code of a run that was told to stop, as a shell counts it."""


IN_A_ROW = 10
"""As many bad steps one after the other end a run that skips them: nothing would be learnt any more."""


class BadSteps:
    """What becomes of the steps whose loss or gradient is no finite number, or whose loss is too large."""

    def __init__(self, config: TrainingConfig, folder: Path, rank: int) -> None:
        self.config, self.folder, self.rank = config, folder, rank
        self.in_a_row = 0

    def skip(self, batch: Samples, step: int, loss: float, norm: float) -> bool:
        """Whether a step is to be skipped.

        The batch of a bad step is kept in ``bad_batches``: its tensors, and its words with the loss.

        Raises:
            UserError: the step is bad, and the run is to stop.
        """
        complaint = self._complaint(loss, norm)
        if complaint is None:
            self.in_a_row = 0
            return False
        kept = self.folder / "bad_batches" / f"step-{step:08d}-rank-{self.rank}"
        _keep(batch, kept, {"step": step, "loss": str(loss), "grad_norm": str(norm)})
        self.in_a_row += 1
        if self.config.on_bad_loss == "stop":
            raise UserError(
                f"{complaint} at step {step}: lower the learning rate, or give --training.on-bad-loss skip; the batch "
                f"is in {kept}.safetensors"
            )
        if self.in_a_row == IN_A_ROW:
            raise UserError(
                f"{complaint} at step {step}, the {IN_A_ROW}th bad step in a row, and skipping does not help: go back "
                f"to an earlier checkpoint or lower the learning rate; the batches are in {kept.parent}"
            )
        return True

    def _complaint(self, loss: float, norm: float) -> str | None:
        limit = self.config.loss_limit
        if not math.isfinite(loss):
            return f"the loss is {loss:g}"
        if not math.isfinite(norm):
            return f"the loss is {loss:g} and the norm of its gradient {norm:g}"
        if limit is not None and loss > limit:
            return f"the loss is {loss:g}, above training.loss_limit {limit:g},"
        return None


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
