"""How a policy does on held-out episodes while it is being trained."""

from collections.abc import Mapping
from pathlib import Path

import torch

from fathom.data.dataset import known_split
from fathom.errors import UserError
from fathom.evaluation.held_out import measure_held_out
from fathom.files import write_file
from fathom.policies import Policy
from fathom.report import depth_pictures
from fathom.training.policy import Examine, PolicyRecipe

SPLIT = "validation"
FRAMES, ROWS = 64, 3


def examination(dataset: Path, recipe: PolicyRecipe, folder: Path) -> Examine | None:
    """Measures action error and depth on held-out frames, and draws the depth into ``folder/held_out``.

    It is the weights of that step that are measured, not their average.

    Returns:
        ``None`` where the recipe asks for no such measurement.

    Raises:
        UserError: no episodes are held out.
    """
    if not recipe.training.evaluate_every:
        return None
    if known_split(dataset, SPLIT) is None:
        raise UserError(
            f"{dataset}: training.evaluate_every measures on the split {SPLIT!r}, which the dataset lacks: "
            "name it in meta/info.json, or leave training.evaluate_every at 0"
        )

    @torch.no_grad()
    def examine(policy: Policy, step: int, writes: bool) -> Mapping[str, float]:
        found = measure_held_out(policy, dataset, SPLIT, frames=FRAMES)
        if policy.depth_tokenizer is not None:
            seen = depth_pictures.predict(policy, dataset, SPLIT, rows=ROWS, frames=ROWS)
            if writes:
                picture = depth_pictures.draw(seen.rows, dpi=90, metric=seen.depth_range is not None)
                write_file(folder / "held_out" / f"step-{step:06d}.png", picture)
        return {
            f"held_out_{name}": value for name, value in vars(found).items() if name != "frames" and value is not None
        }

    return examine
