"""What a training run is told."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal


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
    """

    lr: float = 5e-5
    warmup_steps: int = 200
    cycle_steps: int = 10_000_000
    final_share: float = 0.0
    weight_decay: float = 1e-4
    beta_1: float = 0.9
    beta_2: float = 0.95
    clip_norm: float = 1.0

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
        batch_size: samples per step.
        micro_batch: samples that are computed at once; the gradients of a step's micro-batches are added up.
        seed: decides initial weights, order of the data, noise and times.
        precision: ``bf16`` computes in bf16 with fp32 weights; ``fp32`` throughout.
        ema_decay: of the averaged weights, which are what is saved; 0 saves the last weights.
        log_every: steps between lines of ``metrics.jsonl``.
        checkpoint_every: steps between checkpoints.
        in_memory: decode the whole dataset once before the first step: for small datasets.
        workers: processes that decode, when not in memory.
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
    in_memory: bool = True
    workers: int = 2
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        if self.workers < 0 or not 0 <= self.ema_decay < 1:
            raise ValueError(f"workers is {self.workers}, ema_decay {self.ema_decay}: at least 0, the decay below 1")
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
