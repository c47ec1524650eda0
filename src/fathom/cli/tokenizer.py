"""``fathom tokenizer``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from fathom.cli.verb import Settings, with_settings

if TYPE_CHECKING:
    from fathom.training.tokenizer import TokenizerRecipe


@dataclass(frozen=True)
class TokenizerTrain:
    """Train a depth tokenizer on a dataset's depth."""

    dataset: tyro.conf.Positional[Path]
    """A LeRobot dataset with a depth feature."""

    out: Path
    """The tokenizer's folder; an interrupted run continues there."""

    recipe: str = "quickstart"
    """The settings to start from."""

    settings: Settings = ()

    @staticmethod
    def recipe_called(name: str) -> "TokenizerRecipe":
        from fathom.recipes import tokenizer_recipe

        return tokenizer_recipe(name)

    def run(self) -> None:
        from fathom.training.tokenizer import read_score, score_line, train_tokenizer

        recipe = with_settings(self.recipe_called(self.recipe), self.settings, "fathom tokenizer train")
        train_tokenizer(self.dataset, recipe, self.out)
        print(score_line(read_score(self.out)))


@dataclass(frozen=True)
class TokenizerEncode:
    """Write a dataset's depth codes into it, so that training need not compute them."""

    dataset: tyro.conf.Positional[Path]
    """A LeRobot dataset with a depth feature; do this before anything is trained on it."""

    tokenizer: tyro.conf.Positional[Path]
    """The tokenizer's folder."""

    name: str = "depth.codes"
    """Name of the new feature."""

    depth: str | None = None
    """Whose codes, as `noisy_depth`; by default `main_depth`."""

    def run(self) -> None:
        from fathom.depth.tokenizer import DepthTokenizer
        from fathom.training.encode import encode

        episodes = encode(self.dataset, DepthTokenizer.load(self.tokenizer), name=self.name, depth=self.depth)
        print(f"{episodes} episodes have {self.name}")


@dataclass(frozen=True)
class TokenizerEval:
    """Measure how well a depth tokenizer reconstructs a dataset's depth, and how it uses its codes."""

    tokenizer: tyro.conf.Positional[Path]
    """The tokenizer's folder."""

    dataset: tyro.conf.Positional[Path]
    """A LeRobot dataset with a depth feature."""

    split: str = "validation"
    """Which episodes: a split of the dataset, or `all`."""

    frames: int = 512
    """Frames to reconstruct, evenly spread."""

    picture: Path | None = None
    """Write true and reconstructed depth of a few frames here, as a PNG."""

    def run(self) -> None:
        from fathom.depth.tokenizer import DepthTokenizer
        from fathom.training.tokenizer import score_line, score_tokenizer

        tokenizer = DepthTokenizer.load(self.tokenizer)
        split = None if self.split == "all" else self.split
        print(score_line(score_tokenizer(tokenizer, self.dataset, split, frames=self.frames)))
        if self.picture:
            from fathom.files import write_file
            from fathom.report.tokenizer_pictures import draw

            write_file(self.picture, draw({"reconstructed": tokenizer}, self.dataset, split))
            print(f"true and reconstructed depth: {self.picture}")
