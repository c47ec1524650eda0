"""``fathom train``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from fathom.cli.verb import Settings, with_settings

if TYPE_CHECKING:
    from fathom.training.policy import PolicyRecipe


@dataclass(frozen=True)
class Train:
    """Train a policy on a LeRobot dataset; the recipe's fields are options, such as `--training.steps 500`."""

    dataset: tyro.conf.Positional[Path]
    """A LeRobot dataset."""

    out: Path
    """The policy's folder; an interrupted run continues there."""

    recipe: str = "quickstart"
    """The settings to start from."""

    tokenizer: Path | None = None
    """The depth tokenizer's folder, for a policy with depth."""

    init: Path | None = None
    """A policy or an imported checkpoint to start from; its sizes are taken over too."""

    settings: Settings = ()

    @staticmethod
    def recipe_called(name: str) -> "PolicyRecipe":
        from fathom.recipes import policy_recipe

        return policy_recipe(name)

    def run(self) -> None:
        from fathom.depth.tokenizer import DepthTokenizer
        from fathom.training.policy import train_policy

        recipe = with_settings(self.recipe_called(self.recipe), self.settings, "fathom train")
        tokenizer = DepthTokenizer.load(self.tokenizer) if self.tokenizer else None
        train_policy(self.dataset, recipe, self.out, tokenizer, self.init)
