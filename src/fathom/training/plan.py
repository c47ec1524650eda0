"""What a training will need, before any weight is loaded: parameters, memory, steps and time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from fathom.config import parse_config, read_json
from fathom.depth.tokenizer import DepthTokenizer, DepthTokenizerConfig
from fathom.errors import UserError
from fathom.training.config import TrainingConfig
from fathom.training.device import pick_device
from fathom.training.distributed import World
from fathom.training.planned_step import FP32, Sizes, part_cost
from fathom.training.policy import PolicyRecipe, new_network, open_for
from fathom.training.throughput import GB, Peak, Precision, gpu_called, memory_of, peak_of
from fathom.training.tuning import add_lora, freeze

EFFICIENCY = 0.4
"""The share of a device's peak that a plan counts on [D]: open-pi-zero reaches 23–34 %, well-kept trainings 40–55 %."""

RESERVE = 0.05
"""The share of a device's memory that a plan leaves alone: for the libraries, and for gaps between tensors [D]."""

ADAM = 2 * FP32


@dataclass(frozen=True)
class Machine:
    """What a plan is made for.

    Attributes:
        devices: how many train together.
        memory: bytes of each.
        memory_source: where that number comes from.
        peak: what each can do; ``None`` if that is not known.
        sustained: whether ``peak`` is what training was seen to reach, of which nothing is taken off.
    """

    devices: int
    memory: float
    memory_source: str
    peak: Peak | None
    sustained: bool = False


@dataclass(frozen=True)
class Part:
    """One part of the network.

    Attributes:
        parameters: how many it has.
        trained: how many of them are trained.
    """

    parameters: int
    trained: int


@dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    Attributes:
        weights: in fp32, this device's share.
        gradients: in fp32; all of them, not a share, while several parts of a batch add theirs up.
        optimizer: AdamW's two moments, this device's share.
        average: the averaged weights, this device's share.
        gathered: whole layers at work, where each device keeps only a share of the weights.
        activations: what the layers keep for the backward pass, what is being computed, and the weights' bf16 copies.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class Plan:
    """A training, foreseen.

    Attributes:
        parts: of the network, by name.
        memory: on each device, as the recipe says.
        other_activations: the same line of ``memory`` with the other choice of ``training.recompute``.
        training: the run, its epochs written out as steps.
        part: samples that a device computes at once.
        frames: that the dataset has to learn from.
        flops: floating-point operations of one step, on all devices together.
        machine: what it is planned for.
    """

    parts: Mapping[str, Part]
    memory: Memory
    other_activations: int
    training: TrainingConfig
    part: int
    frames: int
    flops: float
    machine: Machine

    @property
    def room(self) -> float:
        """Bytes that a device has for the training."""
        return (1 - RESERVE) * self.machine.memory

    @property
    def seconds(self) -> float | None:
        """How long all steps take; ``None`` where nothing is known of the device's speed."""
        if self.machine.peak is None:
            return None
        rate = self.machine.peak.flops * (1 if self.machine.sustained else EFFICIENCY)
        return self.training.steps * self.flops / (self.machine.devices * rate)

    def check(self) -> None:
        """Refuse what cannot fit.

        Raises:
            UserError: a device has too little memory.
        """
        if self.memory.total > self.room:
            raise UserError(
                f"this training needs {self.memory.total / GB:.1f} GB on each of {self.machine.devices} devices, and "
                f"{self.room / GB:.1f} GB of {self.machine.memory / GB:.1f} GB ({self.machine.memory_source}) can be "
                f"used: {self._remedy()}"
            )

    def _remedy(self) -> str:
        rest = self.memory.total - self.memory.activations
        if not self.training.recompute and rest + self.other_activations <= self.room:
            return "add --training.recompute, which computes the layers again in the backward pass"
        if rest < 0.9 * self.room and self.part > 1:
            return f"lower --training.micro-batch, which is {self.part} on each device"
        return "share it among more devices, or choose a smaller model, --lora.rank or --freeze"


def make_plan(
    dataset_path: Path,
    recipe: PolicyRecipe,
    machine: Machine,
    *,
    tokenizer: Path | None = None,
    init: Path | None = None,
) -> Plan:
    """Foresee a training; no weight is read, of ``tokenizer`` and ``init`` only the configurations.

    Memory is counted tensor by tensor (:mod:`fathom.training.step_cost`), without what an allocator wastes.

    Raises:
        UserError: the dataset, the recipe and the rest do not go together, as in
            :func:`~fathom.training.policy.train_policy`.
    """
    dataset = open_for(recipe, dataset_path)
    training = recipe.training.for_frames(len(dataset))
    world = World(size=machine.devices)
    share, sharers = world.share_of(training.batch_size), world.sharers(training)
    part = min(training.micro_batch or share, share)
    with torch.device("meta"):
        codes = _tokenizer(recipe, tokenizer)
        policy = new_network(dataset, recipe, codes, init)
    freeze(policy, recipe.freeze)
    if recipe.lora:
        add_lora(policy, recipe.lora)
    sizes = Sizes.of(policy, sharers)
    costs = {
        recompute: part_cost(
            policy, dataset, replace(training, recompute=recompute, compile=False), part, machine.devices
        )
        for recompute in (training.recompute, not training.recompute)
    }
    accumulates = part < share
    memory = Memory(
        weights=FP32 * sizes.kept,
        gradients=FP32 * (sizes.trained if accumulates or machine.devices == 1 else sizes.trained_share),
        optimizer=ADAM * sizes.trained_share,
        average=FP32 * sizes.trained_share if training.ema_decay else 0,
        gathered=0 if machine.devices == 1 else sizes.gathered(bf16=training.precision == "bf16"),
        activations=costs[training.recompute].bytes,
    )
    flops = costs[training.recompute].flops * training.batch_size / part
    other = costs[not training.recompute].bytes
    return Plan(parts_of(policy), memory, other, training, part, len(dataset), flops, machine)


def planned_for(
    devices: int,
    precision: Precision,
    *,
    gpu: str | None = None,
    memory_gb: float | None = None,
    tflops: float | None = None,
) -> Machine:
    """Devices like the one here, or as told.

    Args:
        gpu: what they are, of :data:`~fathom.training.throughput.GPUS`.
        memory_gb: of each, in place of what it has.
        tflops: what each was seen to reach in training, in place of a share of its peak.

    Raises:
        UserError: the GPU is not known, or a number is not above 0.
    """
    device = pick_device()
    if devices < 1 or (memory_gb is not None and memory_gb <= 0) or (tflops is not None and tflops <= 0):
        raise UserError(f"devices is {devices}, memory_gb {memory_gb}, tflops {tflops}: each must be above 0")
    if gpu is not None:
        known = gpu_called(gpu)
        memory, source, peak = known.memory, gpu, Peak(getattr(known, precision), f"{gpu}'s data sheet")
    else:
        # Processes on one machine's CPU share its memory; each GPU has its own.
        memory = memory_of(device) / (devices if device.type == "cpu" else 1)
        source, peak = ("this GPU" if device.type == "cuda" else "this machine's share for each"), None
        if tflops is None and memory_gb is None:  # memory that is told is another machine's, whose speed is unknown
            peak = peak_of(device, precision)
    if memory_gb is not None:
        memory, source = memory_gb * GB, "as told"
    if tflops is not None:
        return Machine(devices, memory, source, Peak(tflops * 1e12, "as told"), sustained=True)
    return Machine(devices, memory, source, peak)


def parts_of(policy: nn.Module) -> dict[str, Part]:
    """The parameters of each stream of the mixture, and of each other module of a policy."""
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in policy.named_parameters():
        words = name.split(".")
        part = words[2] if words[:2] == ["mixture", "streams"] else words[0]
        every, trained = counts.get(part, (0, 0))
        counts[part] = every + parameter.numel(), trained + parameter.numel() * parameter.requires_grad
    return {part: Part(*count) for part, count in counts.items()}


def _tokenizer(recipe: PolicyRecipe, folder: Path | None) -> DepthTokenizer | None:
    """The depth tokenizer without its weights."""
    if recipe.policy.depth is None:
        return None
    if folder is None:
        raise UserError("co-training with depth needs --tokenizer: a plan reads its configuration alone")
    values = read_json(folder / "config.json", "depth tokenizer")
    values.pop("type", None)
    return DepthTokenizer(parse_config(DepthTokenizerConfig, values, folder / "config.json"))
