"""transformers' Trainer for a depth-aware VLM: what it trains, keeps and tells."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from rich.progress import Progress, TaskID
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback

from fathom.errors import UserError
from fathom.training.loop import forget_metrics_after
from fathom.vlm.conversations import Conversation
from fathom.vlm.model import DepthVLM

WEIGHTS = "model.safetensors"
"""Where Trainer looks for the weights of a checkpoint."""

_LAST = "trainer_state.json"  # what Trainer writes last: a checkpoint without it was cut


class Rows(Dataset[Conversation]):
    """transformers' Trainer shuffles by index."""

    def __init__(self, conversations: Sequence[Conversation]) -> None:
        self.conversations = conversations

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> Conversation:
        return self.conversations[index]


class Learner(nn.Module):
    """The model as transformers' Trainer sees it: Trainer would write to its configuration, which is frozen."""

    accepts_loss_kwargs = True  # the loss is the mean over the labels of a whole step, over parts and processes

    def __init__(self, model: DepthVLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: Tensor) -> Any:
        return self.model(**batch)


class Tuner(Trainer):  # type: ignore[misc]
    """transformers' Trainer, whose checkpoints hold what is trained and nothing else."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        folder, model = Path(str(output_dir or self.args.output_dir)), cast(nn.Module, self.model)
        folder.mkdir(parents=True, exist_ok=True)
        weights = model.state_dict() if state_dict is None else state_dict
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        save_file({name: weights[name].detach().cpu().contiguous() for name in trained}, folder / WEIGHTS)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """What is frozen is missing from a checkpoint, as it should be."""


class Watch(TrainerCallback):  # type: ignore[misc]
    """The progress bar and ``metrics.jsonl``; stops where the loss is no number."""

    def __init__(self, bar: Progress, task: TaskID, metrics: Path) -> None:
        self.bar, self.task, self.metrics = bar, task, metrics

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(self.task, total=state.max_steps, completed=state.global_step)
        if state.is_world_process_zero:
            forget_metrics_after(state.global_step, self.metrics)

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


def last_checkpoint(folder: Path) -> str | None:
    """The last whole checkpoint in a folder, if there is one."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{_LAST}")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None
