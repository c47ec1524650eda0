"""``fathom vlm align``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from fathom.cli.verb import Settings, with_settings

if TYPE_CHECKING:
    from fathom.training.alignment import AlignRecipe


@dataclass(frozen=True)
class VlmAlign:
    """Train a depth encoder to see in depth what a VLM's own vision tower sees in pictures."""

    pairs: tyro.conf.Positional[Path]
    """A folder of `fathom vlm pairs` or `fathom vlm questions`."""

    model: str
    """Hub id or folder of a Qwen2.5-VL or Qwen3-VL."""

    out: Path
    """The depth encoder's folder; an interrupted run continues there."""

    recipe: str = "image"
    """The settings to start from: `image` or `patch`, by what is told apart."""

    fusion: Literal["concat", "adapter"] = "concat"
    """What the encoder is for; both have the same one."""

    settings: Settings = ()

    @staticmethod
    def recipe_called(name: str) -> "AlignRecipe":
        from fathom.recipes import align_recipe

        return align_recipe(name)

    def run(self) -> None:
        from fathom.training.alignment import align, start_aligning
        from fathom.vlm.pairs import held_out, read_pairs

        recipe = with_settings(self.recipe_called(self.recipe), self.settings, "fathom vlm align")
        pairs, kind = read_pairs(self.pairs)
        learn, test = held_out(pairs, recipe.held_out, recipe.training.seed)
        model = start_aligning(self.model, self.fusion, kind, recipe)
        for name, value in align(model, learn, test, recipe, self.out).items():
            print(f"{name} {value:.1%} of {len(test)} pairs held out")
