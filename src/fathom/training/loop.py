"""The training loop: one for everything that is trained here."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fathom.data.batch import Batch
from fathom.errors import UserError
from fathom.files import full_disk_is_told, write_file
from fathom.progress import progress_bar
from fathom.training.checkpoint import checkpoint_path, load_state, save_state
from fathom.training.config import TrainingConfig

LossOf = Callable[[Batch, Batch, int, torch.Generator], tuple[Tensor, Mapping[str, Tensor]]]
"""From a part of a batch, the whole of it, the step and the step's generator to the loss and the metrics to log, which
of all parts add up to those of the whole."""


def train(
    model: nn.Module,
    loss_of: LossOf,
    batches: Callable[[int], Iterator[Batch]],
    config: TrainingConfig,
    folder: Path,
    *,
    label: str,
) -> None:
    """Train ``model`` in place, to the end or onwards from the folder's checkpoint.

    At the end the model holds the averaged weights (``config.ema_decay``) if there are any. All random draws of a step
    come from ``(config.seed, step)``, so that a resumed run does what an undisturbed one would.

    Args:
        loss_of: computes the loss.
        batches: an endless iterator of batches from a given step on.
        folder: where ``metrics.jsonl`` and the checkpoint go.
        label: what the progress bar calls the work.

    Raises:
        UserError: the loss is not a finite number.
    """
    device = next(model.parameters()).device
    run = _Run(model, config)
    try:
        run.restore(load_state(folder))
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{checkpoint_path(folder)} is of another model: delete it to train from the start") from error
    log = _Metrics(folder / "metrics.jsonl", run.step)
    stream = batches(run.step)
    model.train()
    with progress_bar() as bar:
        task = bar.add_task(label, total=config.steps, completed=run.step, note="")
        while run.step < config.steps:
            begin = time.perf_counter()
            batch = next(stream)
            waited = time.perf_counter() - begin
            seed = _step_seed(config.seed, run.step)
            torch.manual_seed(seed)  # for libraries that draw from the global generator, as k-means does
            generator = torch.Generator().manual_seed(seed)
            for piece in batch.split(config.micro_batch or len(batch)):
                with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    loss, metrics = loss_of(piece, batch, run.step, generator)
                if not torch.isfinite(loss):
                    raise UserError(f"the loss is {loss.item()} at step {run.step}: lower the learning rate")
                loss.backward()
                log.add({"loss": loss.detach(), **metrics}, len(piece))
            norm = run.update()
            log.step_done(norm, begin, waited)
            if run.step % config.log_every == 0 or run.step == config.steps:
                line = log.write(run.step, lr=config.optimizer.lr_at(run.step - 1))
                bar.update(task, note=f"loss {line['loss']:.4f} · {line['samples_per_s']:.0f} samples/s")
            if run.step % config.checkpoint_every == 0 or run.step == config.steps:
                save_state(folder, run.state())
            bar.update(task, completed=run.step)
    run.average()


def last_metrics(folder: Path) -> dict[str, float]:
    """The last line of a run's ``metrics.jsonl``; empty before there is one."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return json.loads(lines[-1]) if lines else {}


class _Run:
    """Model, optimiser and averaged weights, and the step they have reached."""

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        self.model, self.config, self.step = model, config, 0
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        chosen = config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=chosen.lr, weight_decay=chosen.weight_decay, betas=(chosen.beta_1, chosen.beta_2)
        )
        self.ema = [p.detach().clone() for p in self.parameters] if config.ema_decay else []

    def update(self) -> Tensor:
        """One optimiser step on the gradients that have come together; returns their norm before clipping."""
        chosen = self.config.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = chosen.lr_at(self.step)
        norm = nn.utils.clip_grad_norm_(self.parameters, chosen.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.ema:
            # Early on the average follows quickly, so that it does not remember the initial weights.
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        return norm

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
        }

    def restore(self, state: Mapping[str, Any] | None) -> None:
        if state is None:
            return
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema = [tensor.to(p.device) for tensor, p in zip(state["ema"], self.parameters, strict=bool(self.ema))]

    @torch.no_grad()
    def average(self) -> None:
        for parameter, averaged in zip(self.parameters, self.ema, strict=False):
            parameter.copy_(averaged)


class _Metrics:
    """``metrics.jsonl``: one line per ``log_every`` steps, of the means since the line before."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        # What a killed run logged after its last checkpoint will be logged again.
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        whole = [line for line in lines if line.endswith("\n")]  # the last one may have been cut
        write_file(path, "".join(line for line in whole if json.loads(line)["step"] <= step).encode())
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps, self.samples, self.waited, self.seconds = 0, 0, 0.0, 0.0

    def add(self, metrics: Mapping[str, Tensor], samples: int) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + value.detach().float().cpu()
        self.samples += samples

    def step_done(self, norm: Tensor, begin: float, waited: float) -> None:
        self.add({"grad_norm": norm}, samples=0)
        self.steps += 1
        self.waited, self.seconds = self.waited + waited, self.seconds + time.perf_counter() - begin

    def write(self, step: int, **extra: float) -> dict[str, float]:
        line = {
            "step": step,
            **{name: (total / self.steps).item() for name, total in self.sums.items()},
            **extra,
            "samples_per_s": self.samples / self.seconds,
            "data_wait_share": self.waited / self.seconds,
        }
        with full_disk_is_told(self.path), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._reset()
        return line


def _step_seed(seed: int, step: int) -> int:
    return seed * 1_000_003 + step
