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

    dry_run: bool = False
    """Do not train: print parameters, memory, steps and time, and refuse what cannot fit. No weight is loaded."""

    devices: int = 1
    """For `--dry-run`: processes that will train together."""

    gpu: str | None = None
    """For `--dry-run`: what they train on, as `H200`; by default what is here."""

    memory_gb: float | None = None
    """For `--dry-run`: memory of each device."""

    tflops: float | None = None
    """For `--dry-run`: what each device was seen to reach in training; by default a share of its data sheet's."""

    settings: Settings = ()

    @staticmethod
    def recipe_called(name: str) -> "PolicyRecipe":
        from fathom.recipes import policy_recipe

        return policy_recipe(name)

    def run(self) -> None:
        recipe = with_settings(self.recipe_called(self.recipe), self.settings, "fathom train")
        if self.dry_run:
            self._plan(recipe)
            return
        from fathom.depth.tokenizer import DepthTokenizer
        from fathom.recipes.examination import examination
        from fathom.training.distributed import joined
        from fathom.training.policy import train_policy_in

        with joined(recipe.training) as world:  # from here on the first process says what any of them finds wrong
            tokenizer = DepthTokenizer.load(self.tokenizer) if self.tokenizer else None
            examine = examination(self.dataset, recipe, self.out)
            train_policy_in(world, self.dataset, recipe, self.out, tokenizer, self.init, examine)

    def _plan(self, recipe: "PolicyRecipe") -> None:
        from rich.console import Console

        from fathom.report.plan import plan_tables
        from fathom.training.plan import make_plan, planned_for

        machine = planned_for(
            self.devices, recipe.training.precision, gpu=self.gpu, memory_gb=self.memory_gb, tflops=self.tflops
        )
        plan = make_plan(self.dataset, recipe, machine, tokenizer=self.tokenizer, init=self.init)
        Console().print(plan_tables(plan))
        plan.check()
