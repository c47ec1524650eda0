"""How good the kinds of depth tokenizer are: learned, running-mean and scalar codes, on grids of 16 x 16 and 32 x 32.

    python benchmarks/depth_tokenizers.py runs/quickstart/dataset --out runs/tokenizers [--image tokenizers.png]

Each is trained with the quickstart's steps, batches and learning rate, once for each seed, and measured on held-out
episodes; what was trained before is not trained again. Prints a table of means over seeds, with the lowest and the
highest in brackets.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fathom.data.dataset import known_split
from fathom.depth.tokenizer import DepthTokenizer
from fathom.files import write_file
from fathom.recipes.quickstart import quickstart
from fathom.report.tokenizer_pictures import draw
from fathom.training.tokenizer import TokenizerRecipe, TokenizerScore, read_score, train_tokenizer

LEVELS = (8, 6, 5)  # 240 codes, beside the others' 256
KINDS = {f"{kind}{grid}": (kind, grid) for grid in (16, 32) for kind in ("vq", "ema", "fsq")}

COLUMNS: dict[str, Callable[[TokenizerScore], float]] = {
    "AbsRel": lambda score: score.error.abs_rel,
    "δ1": lambda score: score.error.delta_1,
    "AbsRel at edges": lambda score: score.error.edge_abs_rel,
    "usage": lambda score: score.codebook.usage if score.codebook else float("nan"),
    "perplexity": lambda score: score.codebook.perplexity if score.codebook else float("nan"),
    "top code": lambda score: score.codebook.top_share if score.codebook else float("nan"),
    "flicker": lambda score: float("nan") if score.flicker is None else score.flicker,
}
DIGITS = {"AbsRel": ".4f", "δ1": ".3f", "AbsRel at edges": ".3f", "perplexity": ".0f"}  # else per cent


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, print the table, draw the picture."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    for seed in range(options.seeds):
        for name in KINDS:
            train_tokenizer(options.dataset, recipe(name, seed, options.steps), options.out / f"{name}-{seed}")
    scores = {name: [read_score(options.out / f"{name}-{seed}") for seed in range(options.seeds)] for name in KINDS}
    print("\n".join(table(scores)))
    if options.image:
        trained = {name: DepthTokenizer.load(options.out / f"{name}-0") for name in KINDS}
        write_file(options.image, draw(trained, options.dataset, known_split(options.dataset, "validation"), rows=3))
    return 0


def recipe(name: str, seed: int, steps: int | None) -> TokenizerRecipe:
    """The quickstart's, with another quantizer, grid and seed, and perhaps other steps."""
    base = quickstart().tokenizer
    kind, grid = KINDS[name]
    codes = {"quantizer": "fsq", "codes": 240, "levels": LEVELS} if kind == "fsq" else {"quantizer": kind}
    training = replace(base.training, seed=seed)
    if steps is not None:
        cycle = replace(training.optimizer, cycle_steps=steps)
        training = replace(training, steps=steps, checkpoint_every=steps, optimizer=cycle)
    return TokenizerRecipe(replace(base.tokenizer, grid=grid, **codes), training)


def table(scores: dict[str, list[TokenizerScore]]) -> Iterable[str]:
    """The lines of a Markdown table: for each kind the mean of each measure, and its range over the seeds."""
    yield "| | " + " | ".join(COLUMNS) + " |"
    yield "|---" * (1 + len(COLUMNS)) + "|"
    for name, runs in scores.items():
        cells = [
            _cell([measure(score) for score in runs], DIGITS.get(column, ".1%")) for column, measure in COLUMNS.items()
        ]
        yield f"| {name} | " + " | ".join(cells) + " |"


def _cell(values: Sequence[float], digits: str) -> str:
    mean = f"{sum(values) / len(values):{digits}}"
    return mean if len(values) == 1 else f"{mean} ({min(values):{digits}}–{max(values):{digits}})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="a LeRobot dataset with metric depth, as `make quickstart` collects")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the tokenizers")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="other than the quickstart's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--image", type=Path, help="draw frames of the first seed's tokenizers here, as a PNG")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
