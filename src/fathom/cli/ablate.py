"""``fathom ablate``."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from fathom.cli.verb import Settings, with_settings

if TYPE_CHECKING:
    from fathom.training.policy import PolicyRecipe

_COMMAND = "fathom ablate"


@dataclass(frozen=True)
class Ablate:
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

    suite: str = "metaworld"
    """The benchmark: `fathom doctor` lists them."""

    tasks: tuple[str, ...] = ()
    """The suite's tasks, by name; by default all of them."""

    protocol: Literal["quick", "official"] = "quick"
    """As for `fathom eval`."""

    episodes: int | None = None
    """Episodes per task, if not as the protocol says."""

    image_size: int | None = None
    """Side of the pictures that the simulator draws, if not as the protocol says."""

    execute: int = 4
    """Actions of each chunk that are carried out before the policy looks again."""

    spread: float | None = None
    """Meta-World only: metres in x by which objects are scattered to either side; by default its own, mostly 0.1."""

    environments: int = 8
    """Episodes that run side by side."""

    processes: int | None = None
    """Processes that run them; by default one per core."""

    sim_python: Path | None = None
    """A Python that has the simulator, where this one has not."""

    settings: Settings = ()

    @staticmethod
    def recipe_called(name: str) -> "PolicyRecipe":
        from fathom.recipes import policy_recipe

        return policy_recipe(name)

    def run(self) -> None:
        from fathom.evaluation import Protocol
        from fathom.recipes.ablation import Ablation, run_ablation
        from fathom.recipes.variants import read_variants

        recipe = with_settings(self.recipe_called(self.recipe), self.settings, _COMMAND)
        variants = read_variants(
            self.vary, recipe, lambda base, words: with_settings(base, words, f"{_COMMAND} --vary")
        )
        protocol = Protocol.preset(
            self.protocol,
            self.suite,
            self.tasks,
            episodes=self.episodes,
            image_size=self.image_size,
            execute=self.execute,
            options=None if self.spread is None else {"spread": self.spread},
        )
        run_ablation(
            Ablation(recipe, variants, protocol, self.seeds),
            self.dataset,
            self.out,
            tokenizer=self.tokenizer,
            command=shlex.join(["fathom", *sys.argv[1:]]),
            environments=self.environments,
            processes=self.processes,
            sim_python=self.sim_python,
        )
