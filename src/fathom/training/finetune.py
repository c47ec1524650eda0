"""Fine-tuning a depth-aware VLM on conversations, with transformers' Trainer."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from rich.progress import Progress, TaskID
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from fathom.config import read_json
from fathom.errors import UserError
from fathom.files import full_disk_is_told, write_file
from fathom.progress import progress_bar
from fathom.training.alignment import load_aligned
from fathom.training.device import pick_device
from fathom.training.loop import last_metrics
from fathom.training.settings import check, claim
from fathom.vlm.config import DepthVLMConfig, LoRA
from fathom.vlm.conversations import Conversation
from fathom.vlm.memory import memory_plan
from fathom.vlm.model import DepthVLM
from fathom.vlm.processor import DepthVLMProcessor
from fathom.vlm.saving import load_depth_vlm, save_depth_vlm, start_depth_vlm

_WEIGHTS = "model.safetensors"  # where Trainer looks for those of a checkpoint
_TRAINED = "trained"
_LAST = "trainer_state.json"  # what Trainer writes last: a checkpoint without it was cut


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


@dataclass(frozen=True)
class FinetuneRecipe:
    """A depth-aware VLM and how it is fine-tuned.

    Attributes:
        model: what stands around the VLM.
        training: the run.
    """

    model: DepthVLMConfig = field(default_factory=lambda: DepthVLMConfig(lora=LoRA()))
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
    model = start()
    claim(folder, recipe, **made_from)
    _train(model, conversations, recipe.training, folder, label)
    if recipe.training.fsdp_config is not None:  # its weights are in pieces, and whole in what the trainer saved last
        model = start()
        _Learner(model).load_state_dict(load_file(folder / _TRAINED / _WEIGHTS), strict=False)
    if _is_first():
        data = {**made_from, "conversations": len(conversations)}
        model.provenance = {"data": data, "recipe": asdict(recipe), "metrics": last_metrics(folder)}
        save_depth_vlm(model, folder, adapters_only=recipe.model.lora is not None and model.config.base is not None)
        for leftover in (*folder.glob("checkpoint-*"), folder / _TRAINED):
            shutil.rmtree(leftover, ignore_errors=True)
    return model.eval()


def start_for(
    base: str, recipe: FinetuneRecipe, aligned: Path | None, conversations: Sequence[Conversation]
) -> Callable[[], DepthVLM]:
    """What :func:`finetune` starts from: a published VLM with depth put onto it; its memory plan is printed.

    Args:
        base: hub id or folder.
        aligned: a depth encoder of :func:`fathom.training.alignment.align`.
    """

    def start() -> DepthVLM:
        torch.manual_seed(recipe.training.seed)
        frozen = recipe.model.lora is not None and recipe.training.precision == "bf16"
        model = start_depth_vlm(base, recipe.model, dtype=torch.bfloat16 if frozen else torch.float32)
        if aligned is not None:
            load_aligned(model, aligned)
        if _is_first():
            example = _batch(model.processor, conversations[:1])
            rows = recipe.training.micro_batch or recipe.training.batch_size
            print(memory_plan(model, tokens=example["input_ids"].shape[1], batch=rows, training=True))
        return model.to(pick_device())

    return start


def _train(
    model: DepthVLM, conversations: Sequence[Conversation], config: FinetuneConfig, folder: Path, label: str
) -> None:
    if config.gradient_checkpointing:
        model.vlm.gradient_checkpointing_enable({"use_reentrant": False})
    with progress_bar() as bar, full_disk_is_told(folder):
        task = bar.add_task(label, total=None, note="", visible=_is_first())
        trainer = _Tuner(
            model=_Learner(model),
            args=_arguments(config, folder),
            train_dataset=_Rows(conversations),
            data_collator=partial(_batch, model.processor),
            callbacks=[_Watch(bar, task, folder / "metrics.jsonl")],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
        if config.fsdp_config is not None:
            trainer.save_model(str(folder / _TRAINED))


class _Rows(Dataset[Conversation]):
    """transformers' Trainer shuffles by index."""

    def __init__(self, conversations: Sequence[Conversation]) -> None:
        self.conversations = conversations

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> Conversation:
        return self.conversations[index]


class _Learner(nn.Module):
    """The model as transformers' Trainer sees it: Trainer would write to its configuration, which is frozen."""

    accepts_loss_kwargs = False  # the loss is the mean over the batch's own labels

    def __init__(self, model: DepthVLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: Tensor) -> Any:
        return self.model(**batch)


class _Tuner(Trainer):  # type: ignore[misc]
    """transformers' Trainer, whose checkpoints hold what is trained and nothing else."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        weights = self.model.state_dict() if state_dict is None else state_dict
        trained = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        save_file({name: weights[name].detach().cpu().contiguous() for name in trained}, folder / _WEIGHTS)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """What is frozen is missing from a checkpoint, as it should be."""


class _Watch(TrainerCallback):  # type: ignore[misc]
    """The progress bar and ``metrics.jsonl``; stops where the loss is no number."""

    def __init__(self, bar: Progress, task: TaskID, metrics: Path) -> None:
        self.bar, self.task, self.metrics = bar, task, metrics

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(self.task, total=state.max_steps, completed=state.global_step)
        if state.is_world_process_zero:  # what a killed run logged after its last checkpoint will be logged again
            lines = self.metrics.read_text().splitlines(keepends=True) if self.metrics.is_file() else []
            whole = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= state.global_step]
            write_file(self.metrics, "".join(whole).encode())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(self.task, completed=state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint is whole: the ones before it have done their work."""
        if state.is_world_process_zero:
            for older in self.metrics.parent.glob("checkpoint-*"):
                if older.name != f"checkpoint-{state.global_step}":
                    shutil.rmtree(older, ignore_errors=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        if not torch.tensor(logs["loss"]).isfinite():
            raise UserError(f"the loss is {logs['loss']} at step {state.global_step}: lower the learning rate")
        self.bar.update(self.task, note=f"loss {logs['loss']:.4f}")
        if state.is_world_process_zero:
            line = {"step": state.global_step, "loss": logs["loss"], "lr": logs.get("learning_rate")}
            with self.metrics.open("a") as file:
                file.write(json.dumps(line | {"grad_norm": logs.get("grad_norm")}) + "\n")


def _arguments(config: FinetuneConfig, folder: Path) -> TrainingArguments:
    """Trainer's own words for the configuration."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    micro_batch = config.micro_batch or max(1, config.batch_size // processes)
    if config.batch_size % (micro_batch * processes):
        raise UserError(
            f"batch_size {config.batch_size} is no multiple of {micro_batch} conversations at once on {processes} "
            "processes: choose batch_size or micro_batch so that it is"
        )
    fsdp = None if config.fsdp_config is None else read_json(Path(config.fsdp_config), "FSDP configuration")
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
        fsdp=None if fsdp is None else True,
        fsdp_config=fsdp,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _batch(processor: DepthVLMProcessor, rows: Sequence[Conversation]) -> dict[str, Tensor]:
    units = {row.unit for row in rows if row.depth is not None}
    if len(units) > 1:
        raise UserError("the conversations give depth in both m and mm: use one unit, or 16-bit PNGs alone")
    return processor(
        [row.image for row in rows],
        [row.messages for row in rows],
        [row.depth for row in rows],
        units.pop() if units else None,
    )


def _last_checkpoint(folder: Path) -> str | None:
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{_LAST}")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"
