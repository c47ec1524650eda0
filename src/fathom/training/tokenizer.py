"""Training the depth tokenizer."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from fathom.config import parse_config, read_json
from fathom.data.batch import Batch
from fathom.data.dataset import LeRobotDataset, known_split, open_dataset
from fathom.data.memory import MemoryDataset
from fathom.depth.metrics import CodebookUse, DepthError, codebook_use, depth_error
from fathom.depth.tokenizer import DepthTokenizer, DepthTokenizerConfig
from fathom.errors import UserError
from fathom.files import write_json
from fathom.training.batches import from_memory, from_workers, load_into_memory
from fathom.training.checkpoint import remove_state
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.training.device import pick_device
from fathom.training.loop import train
from fathom.training.settings import check, claim, dataset_fingerprint

LEAST_USAGE = 0.1
"""A codebook of which less than this share is used has collapsed."""


@dataclass(frozen=True)
class TokenizerRecipe:
    """A depth tokenizer and how it is trained."""

    tokenizer: DepthTokenizerConfig = field(default_factory=DepthTokenizerConfig)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(steps=20_000, optimizer=OptimizerConfig(lr=1e-4))
    )


@dataclass(frozen=True)
class TokenizerScore:
    """How well a tokenizer reconstructs the depth of a dataset, and how it uses its codes.

    Attributes:
        error: of the reconstruction.
        codebook: ``None`` for a continuous VAE, which has no codes.
        frames: how many were reconstructed.
        split: of the dataset they are; ``all`` for the whole.
    """

    error: DepthError
    codebook: CodebookUse | None
    frames: int
    split: str


def train_tokenizer(dataset_path: Path, recipe: TokenizerRecipe, folder: Path) -> DepthTokenizer:
    """Train a tokenizer on the dataset's depth and save it in ``folder``, or go on with the one begun there.

    Raises:
        UserError: the dataset has no depth, or the codebook has collapsed.
    """
    dataset = open_depth(dataset_path, known_split(dataset_path, "train"))
    made_from = {"dataset": dataset_fingerprint(dataset.root)}
    check(folder, recipe, **made_from)
    if (folder / "config.json").is_file():
        return DepthTokenizer.load(folder)
    torch.manual_seed(recipe.training.seed)
    tokenizer = DepthTokenizer(recipe.tokenizer).to(pick_device())
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # twice as fast on a CPU

    def loss_of(batch: Batch, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        losses = tokenizer.loss(_depth(batch).to(next(tokenizer.parameters()).device))
        return losses.total, losses.terms()

    if recipe.training.in_memory:
        source = from_memory(load_into_memory(dataset), recipe.training)
    else:
        source = from_workers(dataset, recipe.training)
    claim(folder, recipe, **made_from)
    train(tokenizer, loss_of, source, recipe.training, folder, label="depth tokenizer")
    tokenizer.eval().to("cpu")
    score = score_tokenizer(tokenizer, dataset_path, known_split(dataset_path, "validation"), frames=512)
    if score.codebook and score.codebook.usage < LEAST_USAGE:
        raise UserError(
            f"the codebook has collapsed: only {score.codebook.usage:.0%} of {recipe.tokenizer.codes} codes are used; "
            "train longer, or with a lower learning rate"
        )
    write_json(folder / "score.json", asdict(score))
    tokenizer.save(folder)
    remove_state(folder)
    return tokenizer


def read_score(folder: Path) -> TokenizerScore:
    """The score on held-out episodes that :func:`train_tokenizer` left beside the tokenizer."""
    path = folder / "score.json"
    return parse_config(TokenizerScore, read_json(path, "tokenizer score"), path)


def score_line(score: TokenizerScore) -> str:
    """The score in one line."""
    error, use = score.error, score.codebook
    codebook = (
        f"codebook: {use.usage:.0%} used, perplexity {use.perplexity:.0f}, top code {use.top_share:.1%}"
        if use
        else "continuous latents, no codebook"
    )
    return (
        f"reconstruction of {score.frames} frames ({score.split}): AbsRel {error.abs_rel:.3f}, δ1 {error.delta_1:.3f}, "
        f"AbsRel at edges {error.edge_abs_rel:.3f}; {codebook}"
    )


@torch.no_grad()
def score_tokenizer(tokenizer: DepthTokenizer, dataset_path: Path, split: str | None, *, frames: int) -> TokenizerScore:
    """Reconstruct up to ``frames`` frames, evenly spread over a split, and compare within the tokenizer's range.

    Args:
        split: of the dataset; ``None`` is all of it.

    Raises:
        UserError: the dataset has no depth or no such split, or no frame is asked for.
    """
    if frames < 1:
        raise UserError(f"frames = {frames}: at least one is needed to measure a tokenizer")
    dataset = open_depth(dataset_path, split)
    bounds = tokenizer.config.depth_range
    true, rebuilt, codes = [], [], []
    for depth in _spread(dataset, frames):
        target, measured = tokenizer.prepare(depth)
        true.append(bounds.denormalize(target).where(measured > 0, torch.nan))
        rebuilt.append(tokenizer.reconstruct(depth))
        if tokenizer.config.has_codes:
            codes.append(tokenizer.encode(depth))
    truth = torch.cat(true)
    error = depth_error(torch.cat(rebuilt), truth.nan_to_num(nan=bounds.far), truth.isfinite())
    use = codebook_use(torch.cat(codes), tokenizer.config.codes) if codes else None
    return TokenizerScore(error, use, len(truth), split or "all")


def open_depth(path: Path, split: str | None) -> LeRobotDataset:
    """The depth of a dataset's split alone, without pictures; ``None`` is the whole dataset."""
    return open_dataset(path, cameras=(), depth=True, split=split)


@torch.no_grad()
def encode_all(tokenizer: DepthTokenizer, memory: MemoryDataset, batch_size: int = 256) -> Int[Tensor, "frames tokens"]:
    """The codes of every frame in memory.

    Raises:
        UserError: the tokenizer is a continuous VAE, which has no codes, or the dataset was opened without depth.
    """
    device = next(tokenizer.parameters()).device
    parts = []
    for begin in range(0, len(memory), batch_size):
        batch = memory.batch(range(begin, min(begin + batch_size, len(memory))))
        parts.append(tokenizer.encode(_depth(batch).to(device)).cpu())
    return torch.cat(parts)


def _spread(dataset: LeRobotDataset, frames: int) -> Iterator[Tensor]:
    name = dataset.info.keys("depth")[0]
    count = min(frames, len(dataset))
    for index in torch.linspace(0, len(dataset) - 1, count).long().split(64):
        yield torch.stack([dataset[int(i)][name] for i in index])


def _depth(batch: Batch) -> Tensor:
    if batch.depth is None:
        raise UserError("the dataset was opened without depth")
    return batch.depth
