"""Training the depth tokenizer."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fathom.config import parse_config, read_json
from fathom.data.batch import Batch, Whole
from fathom.data.dataset import LeRobotDataset, known_split, open_dataset
from fathom.data.draws import Draws
from fathom.depth.depth_map import DepthKind
from fathom.depth.metrics import CodebookUse, DepthError, codebook_use, depth_error, still_tokens, token_flicker
from fathom.depth.quantizers import VectorQuantizer
from fathom.depth.tokenizer import DepthTokenizer, DepthTokenizerConfig
from fathom.errors import UserError
from fathom.files import write_json
from fathom.training.batches import from_memory, from_workers, load_into_memory
from fathom.training.checkpoint import remove_all
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.training.device import pick_device
from fathom.training.distributed import ALONE, one_process_only
from fathom.training.loop import train
from fathom.training.settings import check, claim, dataset_fingerprint
from fathom.training.tracking import check_trackers, perplexity

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
        kind: of the depth, and so of what the error is relative to.
        flicker: share of codes that change from one frame to the next where the depth does not
            (:func:`~fathom.depth.metrics.still_tokens`); ``None`` where it never stands still, or without codes.
    """

    error: DepthError
    codebook: CodebookUse | None
    frames: int
    split: str
    kind: DepthKind = "metric"
    flicker: float | None = None


def train_tokenizer(dataset_path: Path, recipe: TokenizerRecipe, folder: Path) -> DepthTokenizer:
    """Train a tokenizer on the dataset's depth and save it in ``folder``, or go on with the one begun there.

    Raises:
        UserError: the dataset has no depth or depth of another kind, or the codebook has collapsed.
    """
    one_process_only("a depth tokenizer")
    ALONE.sharers(recipe.training)
    check_trackers(recipe.training.track)
    dataset = open_depth(dataset_path, known_split(dataset_path, "train"))
    check_kind(recipe.tokenizer, dataset)
    made_from = {"dataset": dataset_fingerprint(dataset.root)}
    check(folder, recipe, **made_from)
    if (folder / "config.json").is_file():
        return DepthTokenizer.load(folder)
    torch.manual_seed(recipe.training.seed)
    tokenizer = DepthTokenizer(recipe.tokenizer).to(pick_device())
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # twice as fast on a CPU

    def loss_of(part: Batch, whole: Whole, step: int, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        losses = tokenizer.loss(depth_in(part).to(next(tokenizer.parameters()).device))
        share = len(part) / len(whole)
        metrics = {name: share * term for name, term in losses.terms().items()}
        if isinstance(tokenizer.quantizer, VectorQuantizer):
            metrics["codebook_perplexity"] = share * perplexity(tokenizer.quantizer.uses)
        return share * losses.total, metrics

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
    remove_all(folder, keep_best=recipe.training.keep_best)
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
    flicker = f", flicker {score.flicker:.2%}" if score.flicker is not None else ""
    what = "" if score.kind == "metric" else " of relative inverse depth"
    return (
        f"reconstruction{what}, {score.frames} frames ({score.split}): AbsRel {error.abs_rel:.3f}, "
        f"δ1 {error.delta_1:.3f}, AbsRel at edges {error.edge_abs_rel:.3f}; {codebook}{flicker}"
    )


@torch.no_grad()
def score_tokenizer(tokenizer: DepthTokenizer, dataset_path: Path, split: str | None, *, frames: int) -> TokenizerScore:
    """Reconstruct up to ``frames`` frames, evenly spread over a split, and compare within the tokenizer's range.

    For the flicker each of them is held against the frame that follows it in its episode.

    Args:
        split: of the dataset; ``None`` is all of it.

    Raises:
        UserError: the dataset has no depth, depth of another kind or no such split, or no frame is asked for.
    """
    if frames < 1:
        raise UserError(f"frames = {frames}: at least one is needed to measure a tokenizer")
    dataset = open_depth(dataset_path, split)
    config = tokenizer.config
    check_kind(config, dataset)
    true, rebuilt, codes, next_codes, still = [], [], [], [], []
    for depth, after, follows in _spread(dataset, frames):
        true.append(tokenizer.true_depth(depth))
        rebuilt.append(tokenizer.reconstruct(depth))
        if config.has_codes:
            codes.append(tokenizer.encode(depth))
            next_codes.append(tokenizer.encode(after))
            unmoved = still_tokens(true[-1], tokenizer.true_depth(after), config.grid, config.kind)
            still.append(unmoved & follows[:, None])
    truth = torch.cat(true)
    error = depth_error(torch.cat(rebuilt), truth, truth.isfinite(), config.kind)
    use = codebook_use(torch.cat(codes), config.codes) if codes else None
    flicker = token_flicker(torch.cat(codes), torch.cat(next_codes), torch.cat(still)) if codes else None
    return TokenizerScore(error, use, len(truth), split or "all", config.kind, flicker)


def check_kind(config: DepthTokenizerConfig, dataset: LeRobotDataset) -> None:
    """Refuse a dataset whose depth is not of the tokenizer's kind.

    Raises:
        UserError: it is not.
    """
    name = dataset.depth_feature
    kind = dataset.info.features[name].depth_kind if name else config.kind
    if kind == config.kind:
        return
    if kind == "metric":
        raise UserError(
            f"{dataset.root}: {name} is in metres, but the depth tokenizer is for relative inverse depth: train one "
            "with a range, as --tokenizer.depth-range.near 0.1 --tokenizer.depth-range.far 10"
        )
    raise UserError(
        f"{dataset.root}: {name} is relative inverse depth, but the depth tokenizer is for metres: train one with "
        "--tokenizer.depth-range none"
    )


def open_depth(path: Path, split: str | None) -> LeRobotDataset:
    """The depth of a dataset's split alone, without pictures; ``None`` is the whole dataset."""
    return open_dataset(path, cameras=(), depth=True, split=split)


@torch.no_grad()
def encode_all(
    tokenizer: DepthTokenizer, depth_of: Callable[[range], Tensor], frames: int, at_once: int = 256
) -> Int[Tensor, "frames tokens"]:
    """The codes of every frame of a dataset, on the CPU.

    Args:
        depth_of: the depth of some frames, (N, 1, H, W).
        frames: how many there are.
        at_once: N at most.

    Raises:
        UserError: the tokenizer is a continuous VAE, which has no codes.
    """
    device = next(tokenizer.parameters()).device
    parts = [range(begin, min(begin + at_once, frames)) for begin in range(0, frames, at_once)]
    return torch.cat([tokenizer.encode(depth_of(part).to(device)).cpu() for part in parts])


def _spread(dataset: LeRobotDataset, frames: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Depth of frames spread evenly, of those right behind them, and whether these are of the same episode."""
    name = dataset.depth_feature
    assert name is not None  # it was opened with depth
    episode = torch.tensor(dataset.columns["episode_index"])
    last = len(dataset) - 1
    for index in torch.linspace(0, last, min(frames, len(dataset))).long().split(64):
        after = (index + 1).clamp(max=last)
        pairs = [[dataset.picture(name, i) for i in pair] for pair in zip(index.tolist(), after.tolist(), strict=True)]
        depth, next_depth = torch.from_numpy(np.array(pairs)).unbind(1)
        yield depth, next_depth, (after > index) & (episode[after] == episode[index])


def depth_in(batch: Batch) -> Tensor:
    """The depth of a batch, (batch, 1, H, W).

    Raises:
        UserError: the dataset was opened without depth.
    """
    if batch.depth is None:
        raise UserError("the dataset was opened without depth")
    return batch.depth
