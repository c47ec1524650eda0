"""``fathom vlm finetune``."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from fathom.cli.verb import Settings, with_settings
from fathom.errors import UserError

if TYPE_CHECKING:
    from fathom.training.finetune import FinetuneRecipe

_ALIGNED = "alignment.json", "depth_encoder.safetensors"


@dataclass(frozen=True)
class VlmFinetune:
    """Put depth onto a VLM and fine-tune it on conversations about pictures."""

    conversations: tyro.conf.Positional[Path]
    """A JSON or JSONL file in the layout of MSMU, SpatialQA, TRL or `fathom vlm questions`."""

    model: str
    """Hub id or folder of a Qwen2.5-VL or Qwen3-VL."""

    out: Path
    """The new model's folder; an interrupted run continues there."""

    recipe: str = "concat"
    """The settings to start from: a fusion, by its name."""

    aligned: Path | None = None
    """The folder of a depth encoder from `fathom vlm align`; without it, it starts as the VLM's vision tower."""

    images: Path | None = None
    """The folder that the conversations' paths start from; by default that of their file."""

    merge: bool = False
    """Also write the whole model, with the adapters added to its weights, to `<out>/merged`."""

    settings: Settings = ()

    @staticmethod
    def recipe_called(name: str) -> "FinetuneRecipe":
        from fathom.recipes import finetune_recipe

        return finetune_recipe(name)

    def run(self) -> None:
        from fathom.training.finetune import finetune, is_first, start_for
        from fathom.vlm.conversations import read_conversations

        recipe = with_settings(self.recipe_called(self.recipe), self.settings, "fathom vlm finetune")
        conversations = read_conversations(self.conversations, self.images)
        start = start_for(self.model, recipe, self.aligned, conversations)
        made_from = {
            "model": self.model,
            "file": str(self.conversations),
            "file_digest": _digest(self.conversations),
            "aligned": str(self.aligned),
        }
        if self.aligned is not None:
            made_from["aligned_digest"] = _digest(*(self.aligned / name for name in _ALIGNED))
        model = finetune(start, conversations, recipe, self.out, made_from=made_from)
        if self.merge and is_first():
            model.merge().save(self.out / "merged")
        print(f"the model: {self.out / 'merged' if self.merge else self.out}")


def _digest(*paths: Path) -> str:
    """Changes with any byte of the files: of the same name, they may be others when a run goes on.

    Raises:
        UserError: one is missing.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while part := file.read(2**20):
                    digest.update(part)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{path} is missing") from None
    return digest.hexdigest()[:16]
