"""Running the depth-aware VLM's quickstart: each step takes up what the steps before it left in the run's folder."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from fathom.errors import UserError
from fathom.evaluation.spatial import Answers, Comparison, compare
from fathom.evaluation.statistics import Rate
from fathom.recipes.depth_vlm import FUSIONS, SpatialQuickstart
from fathom.report.spatial import write_spatial_report
from fathom.training.alignment import align, load_aligned
from fathom.training.finetune import FinetuneRecipe, finetune
from fathom.training.settings import claim
from fathom.vlm.config import DepthVLMConfig, Fusion
from fathom.vlm.conversations import Conversation, read_conversations
from fathom.vlm.model import DepthVLM
from fathom.vlm.pairs import Pair, held_out
from fathom.vlm.questions.reading import read_made_questions
from fathom.vlm.saving import start_depth_vlm
from fathom.vlm.scoring.answering import answer_questions
from fathom.vlm.small import small_depth_vlm
from fathom.vlm.tabletop import write_tabletop_questions

SEEDS = (0, 1)


@dataclass(frozen=True)
class _Run:
    """One seed's trainings on one share of the scenes, and where they go."""

    recipe: SpatialQuickstart
    folder: Path
    questions: Path
    seed: int
    share: float

    def conversations(self) -> list[Conversation]:
        """Those about this run's share of the scenes."""
        found = read_conversations(self.questions / "train.jsonl")
        scenes = sorted({one.scene for one in found})
        order = np.random.default_rng(0).permutation(len(scenes))
        kept = {scenes[place] for place in order[: max(4, round(self.share * len(scenes)))]}
        return [one for one in found if one.scene in kept]

    def texts(self) -> list[str]:
        """All words that there are to learn, whatever the share."""
        found = read_conversations(self.questions / "train.jsonl")
        return [message["content"] for one in found for message in one.messages]

    def as_long(self, recipe: FinetuneRecipe) -> FinetuneRecipe:
        """As many steps on less data, by this run's seed."""
        training = replace(recipe.training, epochs=recipe.training.epochs / self.share, seed=self.seed)
        return replace(recipe, training=training)


def run_vlm_quickstart(
    recipe: SpatialQuickstart,
    folder: Path,
    *,
    compare_all: bool = False,
    shares: Sequence[float] = (1.0,),
    questions: Path | None = None,
) -> Path:
    """Draw scenes and ask about them, train a VLM on RGB, align a depth encoder, fine-tune, ask, score, report.

    Run it again after an interruption and it goes on.

    Args:
        folder: becomes ``{questions, runs, report.html}``.
        compare_all: all five fusions, and two seeds.
        shares: of the training scenes; each is trained as long as all of them would be.
        questions: a folder of ``fathom vlm questions``, in place of scenes that are drawn.

    Returns:
        the report.

    Raises:
        UserError: the folder holds a run with other settings, or a step cannot be done.
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        raise UserError(f"scale is {' '.join(map(str, shares))}: shares of the training scenes, above 0 and up to 1")
    console, began = Console(), time.monotonic()
    claim(folder, recipe, questions=str(questions) if questions else "tabletop")
    fusions: Sequence[Fusion] = FUSIONS if compare_all else ("none", recipe.fusion)

    console.print(Rule("1 scenes and questions"))
    if questions is None:
        questions = folder / "questions"
        write_tabletop_questions(recipe.scenes, questions)
    read_made_questions(questions / "test.jsonl")  # bad ones are told before anything is trained
    answers = []
    for share in sorted(set(shares), reverse=True):
        for seed in SEEDS if compare_all else SEEDS[:1]:
            run = _Run(recipe, folder / "runs" / f"share{share:g}-seed{seed}", questions, seed, share)
            answers += _train_and_ask(run, fusions, console)
    console.print(Rule("5 compare"))
    rows = compare(answers)
    console.print(comparison_table(rows))
    minutes = (time.monotonic() - began) / 60
    report = write_spatial_report(folder / "report.html", recipe, rows, answers, folder, questions)
    console.print(f"the report: {report} (this call took {minutes:.1f} minutes)")
    return report


def comparison_table(rows: Sequence[Comparison]) -> Table:
    """Percent right by type, and the overall score and its gain over ``none`` with 95 % intervals."""
    types = list(rows[0].per_type)
    names = [name.replace("_", " ") for name in types]
    table = Table("fusion", "scenes", "seeds", *names, "overall %", "gain over none %")
    for row in rows:
        cells = [f"{row.per_type[name].value:.1f}" for name in types]
        gain = "" if row.gain is None else _interval(Rate(*(100 * value for value in row.gain)), sign="+")
        table.add_row(row.arm, f"{row.share:.0%}", str(len(row.seeds)), *cells, _interval(row.overall), gain)
    return table


def _interval(rate: Rate, sign: str = "") -> str:
    return f"{rate.value:{sign}.1f} ({rate.low:.0f} – {rate.high:.0f})"


def _train_and_ask(run: _Run, fusions: Sequence[Fusion], console: Console) -> list[Answers]:
    recipe, where = run.recipe, f"seed {run.seed}, {run.share:.0%} of the scenes"
    conversations = run.conversations()
    console.print(Rule(f"2 train a VLM on pictures alone ({where})"))
    base_recipe = run.as_long(FinetuneRecipe(DepthVLMConfig(fusion="none"), recipe.base))
    start = partial(small_depth_vlm, base_recipe.model, run.texts(), size=recipe.size, seed=run.seed)
    finetune(start, conversations, base_recipe, run.folder / "base", label="base")

    if any(recipe.arm(fusion).model.has_encoder for fusion in fusions):
        console.print(Rule(f"3 align the depth encoder ({where})"))
        pairs = [Pair(name, image, depth) for name, image, depth in _pairs(conversations)]
        learn, test = held_out(pairs, recipe.align.held_out, run.seed)
        model = _on_base(run, "concat", aligned=False)
        training = replace(recipe.align.training, seed=run.seed)
        recall = align(model, learn, test, replace(recipe.align, training=training), run.folder / "aligned")
        console.print("recall on pairs held out: " + ", ".join(f"{name} {value:.0%}" for name, value in recall.items()))

    questions = read_made_questions(run.questions / "test.jsonl")
    answers = []
    for fusion in fusions:
        console.print(Rule(f"4 fine-tune and ask: {fusion} ({where})"))
        arm = run.as_long(recipe.arm(fusion))
        folder = run.folder / fusion
        aligned = arm.model.has_encoder
        model = finetune(partial(_on_base, run, fusion, aligned=aligned), conversations, arm, folder, label=fusion)
        answer_questions(model, questions, folder / "predictions.jsonl")
        answers.append(Answers.read(folder / "predictions.jsonl", fusion, run.seed, run.share))
    return answers


def _on_base(run: _Run, fusion: Fusion, *, aligned: bool) -> DepthVLM:
    """The base with depth put onto it, as with a published VLM."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        model = start_depth_vlm(run.folder / "base", run.recipe.arm(fusion).model)
    if aligned:
        load_aligned(model, run.folder / "aligned")
    return model


def _pairs(conversations: Sequence[Conversation]) -> list[tuple[str, Path, Path]]:
    """Each picture once."""
    depths = {one.image: one.depth for one in conversations if one.depth is not None}
    return [(image.stem, image, depth) for image, depth in depths.items()]
