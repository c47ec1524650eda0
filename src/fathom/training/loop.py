"""The training loop of policies, tokenizers and depth encoders, by one process or by many."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Event
from typing import Generic, Self, TypeVar

import torch
from rich.console import Console
from torch import Tensor, nn

from fathom.data.batch import Whole
from fathom.data.draws import Draws
from fathom.errors import UserError
from fathom.files import full_disk_is_told, write_file
from fathom.progress import progress_bar
from fathom.training.batches import worker_deaths_are_told
from fathom.training.checkpoint import Checkpoints
from fathom.training.config import TrainingConfig
from fathom.training.device import pick_device
from fathom.training.distributed import ALONE, World
from fathom.training.faults import TERMINATED, BadSteps, told_to_stop
from fathom.training.layers import wrapped
from fathom.training.optimizer import Optimizer
from fathom.training.samples import Samples
from fathom.training.tracking import of_the_machine, open_trackers

Some = TypeVar("Some", bound=Samples)

LossOf = Callable[[Some, Whole, int, Draws], tuple[Tensor, Mapping[str, Tensor]]]
"""From a part of a batch, what counts in the whole of it, the step and its random numbers to the loss and the metrics
to log, which of all parts add up to those of the whole."""


def train(
    model: nn.Module,
    loss_of: LossOf[Some],
    batches: Callable[[int], Iterator[Some]],
    config: TrainingConfig,
    folder: Path,
    *,
    label: str,
    world: World = ALONE,
    examine: Callable[[int], Mapping[str, float]] | None = None,
) -> None:
    """Train ``model`` in place, to the end or onwards from the folder's newest checkpoint.

    At the end the model holds the averaged weights (``config.ema_decay``) if there are any. All random draws of a step
    come from ``(config.seed, step)`` and the sample, so that a resumed run does what an undisturbed one would, and many
    processes do what one does.

    Args:
        loss_of: computes the loss.
        batches: an endless iterator of batches from a given step on; each process has its own part of them.
        folder: where ``metrics.jsonl`` and the checkpoints go.
        label: what the progress bar calls the work.
        world: the processes that train together.
        examine: measures the model on something else, after every ``config.evaluate_every`` steps.

    Raises:
        UserError: the loss is no finite number, the disk is full or not shared, the checkpoints are of another model.
        SystemExit: the run was told to stop (SIGTERM); its state is saved.
    """
    world.check_shared(folder)
    model.train()
    with wrapped(model, config), told_to_stop() as stop:
        world.share_out(model, config)
        run = _Run(model, loss_of, config, folder, world)
        run.restore()
        stream = batches(run.step)
        quiet = None if world.is_first else Console(quiet=True)
        with (
            run.checkpoints,
            _Metrics(folder, run.step, world, config) as log,
            progress_bar(quiet) as bar,
            worker_deaths_are_told(),
        ):
            task = bar.add_task(label, total=config.steps, completed=run.step, note="")
            while run.step < config.steps:
                begin = time.perf_counter()
                world.beat()
                batch = next(stream)
                waited = time.perf_counter() - begin
                world.beat()
                stopping = run.do_step(batch, log, stop)
                log.step_done(begin, waited)
                if examine and config.evaluate_every and run.step % config.evaluate_every == 0:
                    log.note(examine(run.step))
                    model.train()
                if run.step % config.log_every == 0 or run.step == config.steps:
                    line = log.write(run.step, lr=config.optimizer.lr_at(run.step - 1))
                    loss = f"loss {line['loss']:.4f}" if "loss" in line else "all steps skipped"
                    bar.update(task, note=f"{loss} · {line['samples_per_s']:.0f} samples/s")
                if stopping or run.step % config.checkpoint_every == 0 or run.step == config.steps:
                    run.save()
                bar.update(task, completed=run.step)
                if stopping:
                    break
        world.rest()
    if run.step < config.steps:
        if world.is_first:
            print(f"fathom: told to stop after step {run.step}, which is saved; run it again to go on", file=sys.stderr)
        raise SystemExit(TERMINATED)
    run.optimizer.average()
    world.gather(model)


def last_metrics(folder: Path) -> dict[str, float]:
    """The last line of a run's ``metrics.jsonl``; empty before there is one."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return json.loads(lines[-1]) if lines else {}


def forget_metrics_after(step: int, path: Path) -> None:
    """Cut a ``metrics.jsonl`` back to a step: what was logged after a killed run's checkpoint will be logged again."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    write_file(path, "".join(line for line in lines if _step_of(line) <= step).encode())


class _Run(Generic[Some]):
    """A model that is trained, and all that a checkpoint of it holds."""

    def __init__(
        self, model: nn.Module, loss_of: LossOf[Some], config: TrainingConfig, folder: Path, world: World
    ) -> None:
        self.model, self.loss_of, self.config, self.folder, self.world = model, loss_of, config, folder, world
        self.optimizer = Optimizer(model, config)
        self.checkpoints = Checkpoints(folder, world, keep_last=config.keep_last, keep_best=config.keep_best)
        self.device = next(model.parameters()).device
        self.bad_steps = BadSteps(config, folder, world.rank)
        self._losses: list[float] = []

    @property
    def step(self) -> int:
        """Optimiser steps that are done."""
        return self.optimizer.step

    def do_step(self, batch: Some, log: "_Metrics", stop: Event) -> bool:
        """One optimiser step; whether any process was told to stop."""
        config, world = self.config, self.world
        # For libraries that draw from the global generator, as dropout does. Processes are far apart: with a
        # stride of one, each would draw what the next one drew a step before.
        torch.manual_seed(_step_seed(config.seed, self.step) + 7_368_787 * world.rank)
        draws, whole = Draws(config.seed, self.step), world.whole(batch)
        parts = batch.split(config.micro_batch or len(batch))
        losses = torch.zeros((), dtype=torch.float64, device=self.device)
        for place, part in enumerate(parts):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                loss, metrics = self.loss_of(part, whole, self.step, draws)
            world.backward(self.model, loss, last=place == len(parts) - 1)
            losses += loss.detach().double()
            log.add({"loss": loss.detach(), **metrics})
        told_here = torch.tensor(stop.is_set(), dtype=torch.float64)
        loss_value, told = world.total(torch.stack([losses.cpu(), told_here])).tolist()
        norms = self.optimizer.norms()
        norm = norms["grad_norm"]
        if self.bad_steps.skip(batch, self.step, loss_value, norm.item()):
            log.forget()
            self.optimizer.skip()
        else:
            log.add_common(norms, len(whole))
            self.optimizer.update(norm)
            self._losses.append(loss_value)
        return told > 0

    def save(self) -> None:
        """Begin to save the state."""
        losses, self._losses = self._losses, []
        state = {
            **{f"model.{name}": value for name, value in self.model.state_dict().items()},
            **self.optimizer.tensors(),
        }
        self.checkpoints.save(self.step, state, sum(losses) / len(losses) if losses else None)

    def restore(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        saved = self.checkpoints.newest()
        if saved is None:
            return
        names = self.checkpoints.names(saved)
        self.optimizer.expect(names)
        state = {f"model.{name}": value for name, value in self.model.state_dict().items()} | self.optimizer.tensors()
        if different := names ^ state.keys():
            raise UserError(
                f"{saved.folder} is of another model ({min(different)} is only in one of them): "
                "choose another folder, or delete it to train from the start"
            )
        self.checkpoints.load(saved, state)
        self.optimizer.step = saved.step


class _Metrics:
    """``metrics.jsonl``: one line per ``log_every`` steps, of the means since the line before.

    Used as ``with metrics:``, it closes what else is written to.
    """

    def __init__(self, folder: Path, step: int, world: World, config: TrainingConfig) -> None:
        self.path, self.world, self.precision = folder / "metrics.jsonl", world, config.precision
        self.trackers = open_trackers(config.track if world.is_first else (), folder, step)
        self.noted: dict[str, float] = {}
        if world.is_first:
            forget_metrics_after(step, self.path)
        self._reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for tracker in self.trackers:
            tracker.close()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.common: dict[str, Tensor] = {}
        self.step_sums: dict[str, Tensor] = {}
        self.steps, self.skipped, self.samples, self.waited, self.seconds = 0, 0, 0, 0.0, 0.0

    def note(self, values: Mapping[str, float]) -> None:
        """What the next line says besides."""
        self.noted.update(values)

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Of a part of a step's batch, in this process; those of all parts and processes add up."""
        _add(self.step_sums, metrics)

    def add_common(self, metrics: Mapping[str, Tensor], samples: int) -> None:
        """Of a step that is done: what all processes know alike, and the samples of all of them."""
        _add(self.sums, self.step_sums)
        _add(self.common, metrics)
        self.step_sums, self.samples, self.steps = {}, self.samples + samples, self.steps + 1

    def forget(self) -> None:
        """The step was skipped."""
        self.step_sums, self.skipped = {}, self.skipped + 1

    def step_done(self, begin: float, waited: float) -> None:
        """When the step began, and for how long it waited for data (seconds)."""
        self.waited, self.seconds = self.waited + waited, self.seconds + time.perf_counter() - begin

    def write(self, step: int, **extra: float) -> dict[str, float]:
        """A line for the steps since the last one; the first process writes it.

        Of steps that were all skipped it has no loss.
        """
        values = torch.stack([value.cpu() for value in self.sums.values()]) if self.sums else torch.zeros(0)
        totals = dict(zip(self.sums, self.world.total(values).tolist(), strict=True))
        common = {name: value.item() for name, value in self.common.items()}
        line = {
            "step": step,
            **{name: value / self.steps for name, value in {**totals, **common}.items()},
            **extra,
            **({"skipped": self.skipped} if self.skipped else {}),
            "samples_per_s": self.samples / self.seconds,
            "data_wait_share": self.waited / self.seconds,
        }
        line |= of_the_machine(line, self.world.size, pick_device(), self.precision) | self.noted
        self.noted = {}
        if self.world.is_first:
            with full_disk_is_told(self.path), self.path.open("a") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        for tracker in self.trackers:
            tracker.write(line)
        self._reset()
        return line


def _add(sums: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + value.detach().float()


def _step_of(line: str) -> float:
    """Of a line of ``metrics.jsonl``; one that was cut, or damaged, is of none."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def _step_seed(seed: int, step: int) -> int:
    return seed * 1_000_003 + step
