"""Recipes: named, typed configurations. To add one, write its function and name it here."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeVar

from fathom.errors import UserError
from fathom.recipes.deepvision import (
    deepvision_depth_quickstart,
    deepvision_libero,
    deepvision_metaworld,
    deepvision_quickstart,
)
from fathom.recipes.qdepth import qdepth_bridge, qdepth_fractal, qdepth_libero, qdepth_libero90, qdepth_piper
from fathom.recipes.quickstart import quickstart, quickstart_policy
from fathom.training.policy import PolicyRecipe
from fathom.training.tokenizer import TokenizerRecipe

if TYPE_CHECKING:
    from fathom.training.alignment import AlignRecipe
    from fathom.training.finetune import FinetuneRecipe

Recipe = TypeVar("Recipe")

POLICY_RECIPES: dict[str, Callable[[], PolicyRecipe]] = {
    "quickstart": quickstart_policy,
    "qdepth_bridge": qdepth_bridge,
    "qdepth_fractal": qdepth_fractal,
    "qdepth_libero90": qdepth_libero90,
    "qdepth_libero": qdepth_libero,
    "qdepth_piper": qdepth_piper,
    "deepvision_libero": deepvision_libero,
    "deepvision_metaworld": deepvision_metaworld,
    "deepvision_quickstart": deepvision_quickstart,
    "deepvision_depth_quickstart": deepvision_depth_quickstart,
}
TOKENIZER_RECIPES: dict[str, Callable[[], TokenizerRecipe]] = {
    "paper": lambda: replace(
        TokenizerRecipe(), training=replace(TokenizerRecipe().training, in_memory=False, workers=8)
    ),
    "quickstart": lambda: quickstart().tokenizer,
}


def align_recipe(name: str) -> "AlignRecipe":
    """The recipe called ``name``; a UserError lists near names if there is none."""
    from fathom.recipes.depth_vlm import ALIGN_RECIPES  # transformers' vision-language models take a while

    return _find(ALIGN_RECIPES, name)


def finetune_recipe(name: str) -> "FinetuneRecipe":
    """The recipe called ``name``; a UserError lists near names if there is none."""
    from fathom.recipes.depth_vlm import FINETUNE_RECIPES

    return _find(FINETUNE_RECIPES, name)


def policy_recipe(name: str) -> PolicyRecipe:
    """The recipe called ``name``; a UserError lists near names if there is none."""
    return _find(POLICY_RECIPES, name)


def tokenizer_recipe(name: str) -> TokenizerRecipe:
    """The recipe called ``name``; a UserError lists near names if there is none."""
    return _find(TOKENIZER_RECIPES, name)


def _find(recipes: Mapping[str, Callable[[], Recipe]], name: str) -> Recipe:
    if name not in recipes:
        near = get_close_matches(name, recipes, n=3, cutoff=0.4) or sorted(recipes)
        raise UserError(f"there is no recipe called {name!r}: did you mean {', '.join(near)}?")
    return recipes[name]()
