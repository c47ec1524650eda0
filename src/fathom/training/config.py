"""What a training run is told."""

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal


@dataclass(frozen=True)
class GroupScales:
    """By how much the learning rate of each part of a policy is multiplied.

    Attributes:
        vlm: the language model and its own vision tower.
        vision: a vision expert that was trained before (DINOv3).
        action: the action expert, and all that is in no other part.
        depth: the depth expert.
    """

    vlm: float = 1.0
    vision: float = 1.0
    action: float = 1.0
    depth: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f"the scale of {name} is {value:g}: it must be at least 0")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule: linear warm-up, then a cosine over ``cycle_steps``.

    Attributes:
        lr: the learning rate's peak.
        warmup_steps: steps until it is reached.
        cycle_steps: length of the cosine, down to ``final_share`` of the peak; the paper's 1e7 is nearly constant.
        final_share: what is left of the peak at the end of the cycle and after it.
        weight_decay: AdamW's.
        beta_1: AdamW's decay of the gradient's mean.
        beta_2: AdamW's decay of its square.
        clip_norm: the gradient's norm is clipped to this.
        scale: the learning rate's multiples for the parts of a policy.
    """

    lr: float = 5e-5
    warmup_steps: int = 200
    cycle_steps: int = 10_000_000
    final_share: float = 0.0
    weight_decay: float = 1e-4
    beta_1: float = 0.9
    beta_2: float = 0.95
    clip_norm: float = 1.0
    scale: GroupScales = field(default_factory=GroupScales)

    def __post_init__(self) -> None:
        for name in ("lr", "cycle_steps", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name):g}: it must be above 0")
        for name in ("warmup_steps", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name):g}: it must be at least 0")
        if not (0 <= self.beta_1 < 1 and 0 <= self.beta_2 < 1 and 0 <= self.final_share <= 1):
            raise ValueError(
                f"beta_1 is {self.beta_1:g}, beta_2 {self.beta_2:g}, final_share {self.final_share:g}: "
                "each is at least 0, the first two below 1, the last at most 1"
            )

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        progress = min(1.0, max(0.0, (step - self.warmup_steps) / max(1, self.cycle_steps - self.warmup_steps)))
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr * warm * (self.final_share + (1 - self.final_share) * cosine)


DEFAULT_STEPS = 1000


@dataclass(frozen=True)
class TrainingConfig:
    """One training run.

    Attributes:
        steps: optimiser steps; with a recipe that counts epochs, also give ``--training.epochs None``.
        epochs: passes over the dataset, in place of ``steps``.
        batch_size: samples per step, of all processes together.
        micro_batch: samples that a process computes at once; the gradients of a step's micro-batches are added up.
        seed: decides initial weights, order of the data, noise and times.
        precision: ``bf16`` computes in bf16 with fp32 weights; ``fp32`` throughout.
        ema_decay: of the averaged weights, which are what is saved; 0 saves the last weights.
        log_every: steps between lines of ``metrics.jsonl``.
        checkpoint_every: steps between checkpoints.
        keep_last: how many of the newest checkpoints are kept.
        keep_best: how many are kept besides for their training loss, the mean since the checkpoint before; these stay
            when the run is done.
        in_memory: decode the whole dataset once before the first step: for small datasets.
        workers: processes that decode, when not in memory; for each process that trains.
        shard: how many processes share one copy of the weights; by default all of them.
        recompute: layers are computed again in the backward pass: less memory, about a third more work.
        compile: layers are compiled by ``torch.compile``.
        track: where metrics go beside ``metrics.jsonl``: ``tensorboard``, ``wandb`` (see the how-to of training).
        evaluate_every: steps between measurements on held-out episodes, which count in ``metrics.jsonl``; 0 for none.
        on_bad_loss: what a step does whose loss or gradient is no finite number, or whose loss is above ``loss_limit``:
            ``stop`` the run, or ``skip`` the step. Its batch is kept in the run's folder either way.
        loss_limit: a loss above this is bad.
        rank_timeout_s: a process that does nothing for so long ends the run, and is named.
    """

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset(
        {
            *("micro_batch", "in_memory", "workers", "shard", "recompute", "compile"),
            *("log_every", "checkpoint_every", "keep_last", "keep_best", "track", "evaluate_every"),
            *("on_bad_loss", "loss_limit", "rank_timeout_s"),
        }
    )
    """What a run that goes on may have other values of: good steps come to the same weights, to rounding.

    A tokenizer whose codes are running means is the exception: they follow the parts that ``micro_batch`` makes.
    """

    steps: int = DEFAULT_STEPS
    epochs: float | None = None
    batch_size: int = 32
    micro_batch: int | None = None
    seed: int = 0
    precision: Literal["bf16", "fp32"] = "bf16"
    ema_decay: float = 0.0
    log_every: int = 20
    checkpoint_every: int = 200
    keep_last: int = 2
    keep_best: int = 0
    in_memory: bool = True
    workers: int = 2
    shard: int | None = None
    recompute: bool = False
    compile: bool = False
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    evaluate_every: int = 0
    on_bad_loss: Literal["stop", "skip"] = "stop"
    loss_limit: float | None = None
    rank_timeout_s: float = 600.0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "checkpoint_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        if self.workers < 0 or not 0 <= self.ema_decay < 1:
            raise ValueError(f"workers is {self.workers}, ema_decay {self.ema_decay}: at least 0, the decay below 1")
        if self.keep_best < 0 or self.rank_timeout_s <= 0 or (self.shard is not None and self.shard < 1):
            raise ValueError(
                f"keep_best is {self.keep_best}, rank_timeout_s {self.rank_timeout_s:g}, shard {self.shard}: "
                "at least 0, more than 0, at least 1"
            )
        if self.micro_batch is not None and (self.micro_batch < 1 or self.batch_size % self.micro_batch):
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of micro_batch {self.micro_batch}")
        if self.epochs is not None and self.epochs <= 0:
            raise ValueError(f"epochs is {self.epochs}: it must be more than 0")
        if self.epochs is not None and self.steps != DEFAULT_STEPS:
            raise ValueError(
                f"both steps {self.steps} and epochs {self.epochs:g} are given: choose one, with epochs None for steps"
            )

    def for_frames(self, frames: int) -> "TrainingConfig":
        """The same with ``epochs`` over this many frames written out as steps."""
        if self.epochs is None:
            return self
        return replace(self, epochs=None, steps=math.ceil(self.epochs * frames / self.batch_size))
