"""``fathom train``."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from fathom.cli.verb import Settings, with_settings


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

    settings: Settings = ()

    def run(self) -> None:
        from fathom.depth.tokenizer import DepthTokenizer
        from fathom.recipes import policy_recipe
        from fathom.training.policy import train_policy

        recipe = with_settings(policy_recipe(self.recipe), self.settings, "fathom train")
        tokenizer = DepthTokenizer.load(self.tokenizer) if self.tokenizer else None
        train_policy(self.dataset, recipe, self.out, tokenizer)
