"""A folder of questions about tables, in the layout that ``fathom vlm questions`` writes."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from fathom.files import write_file, write_json
from fathom.progress import progress_bar
from fathom.vlm.questions.making import make_questions
from fathom.vlm.questions.scene import look
from fathom.vlm.tabletop.drawing import render
from fathom.vlm.tabletop.solids import draw_table

Split = Literal["train", "test"]
_DONE = "questions.json"


@dataclass(frozen=True)
class TabletopRecipe:
    """How many scenes are drawn, and what is asked about them.

    Attributes:
        train, test: scenes of each split; no scene is in both.
        per_scene: questions about one scene, at most.
        kinds: of questions, see :data:`fathom.vlm.questions.KINDS`. Counting is left out by default: it needs no depth.
        size: side of the pictures in pixels.
        seed: of everything that is drawn.
    """

    train: int
    test: int
    per_scene: int = 6
    kinds: tuple[str, ...] = ("camera_distance", "object_distance", "relative_position", "nearer", "size")
    size: int = 64
    seed: int = 0


def write_tabletop_questions(recipe: TabletopRecipe, out: Path) -> None:
    """Write ``train.jsonl``, ``test.jsonl``, ``images/`` and ``depth/``; a folder that is whole is left as it is.

    Everything follows from the recipe, so an interrupted call is simply repeated.
    """
    if (out / _DONE).exists():
        return
    splits: dict[Split, range] = {
        "train": range(recipe.train),
        "test": range(recipe.train, recipe.train + recipe.test),
    }
    with progress_bar() as bar:
        task = bar.add_task("drawing scenes", total=recipe.train + recipe.test, note="")
        for split, scenes in splits.items():
            lines = []
            for scene in scenes:
                lines += [json.dumps(line) + "\n" for line in _ask(recipe, scene, out)]
                bar.advance(task)
            write_file(out / f"{split}.jsonl", "".join(lines).encode())
    write_json(out / _DONE, asdict(recipe))


def _ask(recipe: TabletopRecipe, scene: int, out: Path) -> Iterator[dict[str, Any]]:
    """The lines of one scene; its picture and its depth are written."""
    rng = np.random.default_rng([recipe.seed, scene])
    table = draw_table(rng)
    seen = render(table, recipe.size)
    asked = make_questions(look(seen.depth, seen.labels, seen.names, table.view), 1000, rng)
    chosen = [question for question in asked if question.kind in recipe.kinds][: recipe.per_scene]
    name = f"{scene:06d}"
    places = {"image": f"images/{name}.png", "depth": f"depth/{name}.png"}
    for path in places.values():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(seen.rgb).save(out / places["image"])
    Image.fromarray(np.rint(1000 * seen.depth).clip(0, 65535).astype(np.uint16)).save(out / places["depth"])
    for place, question in enumerate(chosen):
        yield {"id": f"{name}-{place}", **asdict(question), **places, "scene": scene}
