"""``fathom ablate``."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from fathom.cli.trying import Trying
from fathom.cli.verb import Settings, with_settings

if TYPE_CHECKING:
    from fathom.training.policy import PolicyRecipe

_COMMAND = "fathom ablate"


@dataclass(frozen=True, kw_only=True)
class Ablate(Trying):
    """Train and evaluate a recipe and variants of it, and compare them; the recipe's fields are options too."""

    dataset: Path
    """A LeRobot dataset, the same for all."""

    out: Path
    """Where everything goes; an interrupted run continues there."""

    vary: tuple[str, ...]
    """The variants, such as `depth=none depth_weight=0`; several changes at once as `depth=none+blind=true`."""

    recipe: tyro.conf.Positional[str] = "quickstart"
    """The settings of the full policy."""

    tokenizer: Path | None = None
    """The depth tokenizer's folder, for policies with depth."""

    seeds: int = 3
    """Trainings of each variant, with the seeds 0, 1 …"""

    settings: Settings = ()

    @staticmethod
    def recipe_called(name: str) -> "PolicyRecipe":
        from fathom.recipes import policy_recipe

        return policy_recipe(name)

    def run(self) -> None:
        from fathom.recipes.ablation import Ablation, run_ablation
        from fathom.recipes.variants import read_variants

        recipe = with_settings(self.recipe_called(self.recipe), self.settings, _COMMAND)
        variants = read_variants(
            self.vary, recipe, lambda base, words: with_settings(base, words, f"{_COMMAND} --vary")
        )
        run_ablation(
            Ablation(recipe, variants, self.to_protocol(), self.seeds),
            self.dataset,
            self.out,
            tokenizer=self.tokenizer,
            command=shlex.join(["fathom", *sys.argv[1:]]),
            **self.simulation,
        )
