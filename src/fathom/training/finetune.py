"""Fine-tuning a depth-aware VLM on conversations, with transformers' Trainer."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, distributed
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from fathom.config import read_json
from fathom.depth.depth_map import DepthKind, DepthVideo
from fathom.errors import UserError
from fathom.files import full_disk_is_told
from fathom.lora import LoRA
from fathom.progress import progress_bar
from fathom.training.alignment import load_aligned
from fathom.training.device import pick_device
from fathom.training.loop import last_metrics
from fathom.training.settings import check, claim
from fathom.training.trainer import WEIGHTS, Learner, Rows, Tuner, Watch, last_checkpoint
from fathom.vlm.config import DepthVLMConfig
from fathom.vlm.conversations import Conversation
from fathom.vlm.depth_input import read_depth
from fathom.vlm.memory import memory_plan
from fathom.vlm.model import DepthVLM
from fathom.vlm.processor import DepthVLMProcessor
from fathom.vlm.saving import load_depth_vlm, outline_depth_vlm, save_depth_vlm, start_depth_vlm

_TRAINED = "trained"


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning. The defaults are the seed's: batch 16, lr 2e-5, one epoch (SPEC §2).

    Attributes:
        epochs: passes over the conversations.
        batch_size: conversations per step, of all processes.
        micro_batch: conversations that one process computes at once; by default all of its share.
        lr: the learning rate's peak; AdamW, linear warm-up, then a cosine to 0.
        warmup_share: of the steps.
        weight_decay: AdamW's.
        clip_norm: the gradient's norm is clipped to this.
        precision: ``bf16`` computes in bf16 with the trained weights in fp32; ``fp32`` throughout.
        gradient_checkpointing: compute each layer twice and remember less.
        seed: of the order of the conversations, and of dropout.
        log_every: steps between lines of ``metrics.jsonl``.
        checkpoint_every: steps between checkpoints.
        fsdp_config: a JSON file that transformers' Trainer takes as its ``fsdp_config``; ``None`` for no FSDP.
    """

    epochs: float = 1.0
    batch_size: int = 16
    micro_batch: int | None = None
    lr: float = 2e-5
    warmup_share: float = 0.03
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = False
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 200
    fsdp_config: str | None = None

    def __post_init__(self) -> None:
        if self.epochs <= 0 or self.lr <= 0 or not 0 <= self.warmup_share < 1:
            raise ValueError(
                f"epochs is {self.epochs}, lr {self.lr}, warmup_share {self.warmup_share}: the first two are above 0, "
                "the last from 0 to below 1"
            )
        for name in ("batch_size", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch is {self.micro_batch}; at least 1 is needed")


@dataclass(frozen=True)
class FinetuneRecipe:
    """A depth-aware VLM and how it is fine-tuned.

    Attributes:
        model: what stands around the VLM.
        training: the run.
    """

    model: DepthVLMConfig = field(default_factory=lambda: DepthVLMConfig(lora=LoRA(alpha=32)))
    training: FinetuneConfig = field(default_factory=FinetuneConfig)


def finetune(
    start: Callable[[], DepthVLM],
    conversations: Sequence[Conversation],
    recipe: FinetuneRecipe,
    folder: Path,
    *,
    label: str = "fine-tuning",
    made_from: Mapping[str, str] = MappingProxyType({}),
) -> DepthVLM:
    """Fine-tune a model and save it in ``folder``, or go on with what was begun there; a finished one is read.

    What is trained is what requires a gradient: with LoRA the adapters and what depth has added, without it all. With
    LoRA on a published VLM, what was added is saved alone. Run it under ``torchrun`` or ``accelerate launch`` for
    several processes.

    Args:
        start: makes the model that the training starts from.
        folder: also gets ``settings.json``, ``metrics.jsonl`` and, while it lasts, checkpoints.
        label: what the progress bar calls the work.
        made_from: what a run that goes on must find unchanged.

    Raises:
        UserError: the folder belongs to another run, the batch does not fit the processes, a picture or depth map is
            bad, or the loss is no number.
    """
    check(folder, recipe, **made_from)
    if (folder / "config.json").is_file():
        return load_depth_vlm(folder, device=pick_device())
    arguments = _arguments(recipe.training, folder)
    model = start()
    claim(folder, recipe, **made_from)
    _train(model, conversations, recipe.training, arguments, folder, label)
    if recipe.training.fsdp_config is not None:  # its weights are in pieces, and whole in what the trainer saved last
        _meet()  # the first process has written it
        model = start()
        _take_over(model, folder / _TRAINED / WEIGHTS)
        _meet()  # all have read it
    if is_first():
        data = {**made_from, "conversations": len(conversations)}
        model.provenance = {"data": data, "recipe": asdict(recipe), "metrics": last_metrics(folder)}
        save_depth_vlm(model, folder, adapters_only=recipe.model.lora is not None and model.config.base is not None)
        for leftover in (*folder.glob("checkpoint-*"), folder / _TRAINED):
            shutil.rmtree(leftover, ignore_errors=True)
    return model.eval()


def _take_over(model: DepthVLM, trained: Path) -> None:
    """Give the model what was trained; the file may hold more, but nothing that was trained may be missing."""
    learner = Learner(model)
    missing = learner.load_state_dict(load_file(trained), strict=False).missing_keys
    wanted = {name for name, parameter in learner.named_parameters() if parameter.requires_grad}
    if lost := sorted(wanted.intersection(missing)):
        raise UserError(f"{trained} lacks {len(lost)} of the weights that were trained, such as {lost[0]}")


def start_for(
    base: str, recipe: FinetuneRecipe, aligned: Path | None, conversations: Sequence[Conversation]
) -> Callable[[], DepthVLM]:
    """What :func:`finetune` starts from: a published VLM with depth put onto it.

    Before it is read, what one process will need of memory is printed.

    Args:
        base: hub id or folder.
        aligned: a depth encoder of :func:`fathom.training.alignment.align`.
    """

    def start() -> DepthVLM:
        frozen = recipe.model.lora is not None and recipe.training.precision == "bf16"
        dtype = torch.bfloat16 if frozen else torch.float32
        if is_first():
            outline = outline_depth_vlm(base, recipe.model, dtype=dtype)
            batch = _batch(outline.processor, conversations[:1])
            plan = memory_plan(
                outline,
                tokens=batch["input_ids"].shape[1],
                patches=len(batch["pixel_values"]),
                batch=_rows_at_once(recipe.training),
                training=True,
                checkpointing=recipe.training.gradient_checkpointing,
            )
            print(plan)
        torch.manual_seed(recipe.training.seed)
        model = start_depth_vlm(base, recipe.model, dtype=dtype)
        if aligned is not None:
            load_aligned(model, aligned)
        return model.to(pick_device())

    return start


def _train(
    model: DepthVLM,
    conversations: Sequence[Conversation],
    config: FinetuneConfig,
    arguments: TrainingArguments,
    folder: Path,
    label: str,
) -> None:
    if config.gradient_checkpointing:
        model.vlm.gradient_checkpointing_enable({"use_reentrant": False})
    with progress_bar() as bar, full_disk_is_told(folder):
        task = bar.add_task(label, total=None, note="", visible=is_first())
        trainer = Tuner(
            model=Learner(model),
            args=arguments,
            train_dataset=Rows(conversations),
            data_collator=partial(_batch, model.processor),
            callbacks=[Watch(bar, task, folder / "metrics.jsonl")],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=last_checkpoint(folder))
        if config.fsdp_config is not None:
            trainer.save_model(str(folder / _TRAINED))


def _arguments(config: FinetuneConfig, folder: Path) -> TrainingArguments:
    """Trainer's own words for the configuration; what it refuses it refuses before anything is read or written.

    Raises:
        UserError: the batch does not fit the processes, FSDP is asked for without GPUs, or its file cannot be read.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    micro_batch = _rows_at_once(config)
    if config.batch_size % (micro_batch * processes):
        raise UserError(
            f"batch_size {config.batch_size} is no multiple of {micro_batch} conversations at once on {processes} "
            "processes: choose batch_size or micro_batch so that it is"
        )
    fsdp: dict[str, Any] = {}
    if config.fsdp_config is not None:
        if not torch.cuda.is_available():  # accelerate would keep the whole weights in every process, and say nothing
            raise UserError("training.fsdp_config needs GPUs, and there are none: leave it out")
        fsdp = {"fsdp": True, "fsdp_config": read_json(Path(config.fsdp_config), "FSDP configuration")}
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=config.batch_size // (micro_batch * processes),
        learning_rate=config.lr,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_share,
        weight_decay=config.weight_decay,
        max_grad_norm=config.clip_norm,
        bf16=config.precision == "bf16",
        seed=config.seed,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        save_steps=config.checkpoint_every,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        **fsdp,
    )


def _rows_at_once(config: FinetuneConfig) -> int:
    """Conversations that one process computes at once."""
    return config.micro_batch or max(1, config.batch_size // int(os.environ.get("WORLD_SIZE", "1")))


def _batch(processor: DepthVLMProcessor, rows: Sequence[Conversation]) -> dict[str, Tensor]:
    reads = processor.config.fusion != "none"
    return processor(
        [row.image for row in rows],
        [row.messages for row in rows],
        [_depth_of(row, processor.config.depth_kind) if reads else None for row in rows],
    )


def _depth_of(row: Conversation, kind: DepthKind) -> DepthVideo | None:
    """Each conversation has its own unit."""
    return None if row.depth is None else read_depth(row.depth, kind, row.unit)


def _meet() -> None:
    """Wait until all processes are here."""
    if distributed.is_initialized():
        distributed.barrier()


def is_first() -> bool:
    """Whether this process writes the files and speaks for all."""
    return os.environ.get("RANK", "0") == "0"
