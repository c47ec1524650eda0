"""Training a depth encoder to see in depth what the VLM's own vision tower sees in pictures (seed 003, SPEC §2)."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import count
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fathom.config import read_json
from fathom.data.batch import Whole
from fathom.data.draws import Draws
from fathom.data.loader import ShuffledBatches
from fathom.depth.depth_map import DepthKind, LogRange
from fathom.errors import UserError
from fathom.files import write_json
from fathom.training.checkpoint import remove_all
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.training.device import pick_device
from fathom.training.distributed import World, joined
from fathom.training.loop import LossOf, train
from fathom.training.settings import check, claim
from fathom.training.tracking import check_trackers
from fathom.vlm.alignment import Alignment, Level, image_embeddings, retrieval_recall
from fathom.vlm.config import DepthVLMConfig, Fusion
from fathom.vlm.depth_encoder import DepthEncoder
from fathom.vlm.depth_input import depth_of, read_image
from fathom.vlm.model import DepthVLM
from fathom.vlm.pairs import Pair, flip_and_turn
from fathom.vlm.qwen import vision_tower
from fathom.vlm.saving import start_depth_vlm
from fathom.weights import load_weights, save_weights

_SAID = {"base": "--model", "depth_kind": "--model.depth-kind", "depth_range": "--model.depth-range"}
_WEIGHTS, _RECORD = "depth_encoder.safetensors", "alignment.json"


@dataclass(frozen=True)
class AlignRecipe:
    """How a depth encoder is aligned.

    Attributes:
        level: what is told apart, see :data:`fathom.vlm.alignment.Level`.
        held_out: share of the pairs that is not trained on, but tested with.
        degrees: by which a picture and its depth are turned at most; they are mirrored every second time.
        depth_range: the scale of metric depth, which must be that of the model that gets the encoder.
        training: the run; of ``image``, a batch is what each picture is told apart from.
    """

    level: Level = "image"
    held_out: float = 0.1
    degrees: float = 5.0
    depth_range: LogRange = field(default_factory=lambda: DepthVLMConfig().depth_range)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=5, batch_size=64, optimizer=OptimizerConfig(lr=1e-4, warmup_steps=100, cycle_steps=100_000)
        )
    )

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1 or not 0 <= self.degrees <= 45:
            raise ValueError(
                f"held_out is {self.held_out}, degrees {self.degrees}: a share between 0 and 1, and 0 to 45 degrees"
            )
        if self.level == "image" and self.training.micro_batch is not None:
            raise ValueError("level = image tells the pictures of a batch apart: a micro_batch would change the loss")


@dataclass(frozen=True)
class PairBatch:
    """Pictures and depth as the model's processor gives them.

    Attributes:
        image_grid_thw: its rows are the pictures.
    """

    pixel_values: Float[Tensor, "patches values"]
    depth_values: Float[Tensor, "patches pixels"]
    image_grid_thw: Int[Tensor, "images 3"]

    def __len__(self) -> int:
        return len(self.image_grid_thw)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What :class:`fathom.vlm.alignment.Alignment` reads."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def split(self, size: int) -> list[Self]:
        """The pictures in pieces of ``size``."""
        patches = self.image_grid_thw.prod(dim=-1)
        grids = self.image_grid_thw.split(size)
        lengths = [int(part.sum()) for part in patches.split(size)]
        pixels, depths = self.pixel_values.split(lengths), self.depth_values.split(lengths)
        return [type(self)(*parts) for parts in zip(pixels, depths, grids, strict=True)]


def align(
    model: DepthVLM, learn: Sequence[Pair], test: Sequence[Pair], recipe: AlignRecipe, folder: Path
) -> dict[str, float]:
    """Align the model's depth encoder in place, or go on with what was begun in ``folder``.

    Nothing of the model but its vision tower and depth encoder is used, see :func:`start_aligning`.

    Run it under ``torchrun`` for several processes: each picture is then told apart from those of all of them.

    Args:
        test: pairs held out.
        folder: gets ``depth_encoder.safetensors`` and ``alignment.json``, see :func:`load_aligned`.

    Returns:
        recall on the pairs held out, see :func:`measure_recall`.

    Raises:
        UserError: the model has no depth encoder or another depth range than the recipe, there are fewer pairs than
            the batch tells apart, a picture or depth map is bad, or the folder is another run's.
    """
    _check_encoder(model)
    _check_batch(len(learn), recipe)
    config = recipe.training.for_frames(len(learn))
    if model.config.depth_range != recipe.depth_range:
        raise UserError(f"the model's depth_range is {model.config.depth_range}, the recipe's {recipe.depth_range}")
    made_from = {name: str(value) for name, value in _read_by(model).items()} | {"pairs": _digest([*learn, *test])}
    check(folder, recipe, **made_from)
    if (folder / _RECORD).is_file():
        return load_aligned(model, folder)
    depth_range = model.config.depth_range if model.config.depth_kind == "metric" else None
    alignment = Alignment(model.depth_encoder, vision_tower(model.vlm), depth_range, recipe.level)
    with joined(config) as world:
        world.share_of(config.batch_size)
        world.sharers(config)
        check_trackers(config.track)
        if world.is_first:
            claim(folder, recipe, **made_from)
        loss_of = _loss_of(alignment)
        batches = _batches(model, learn, recipe, config, world)
        train(alignment, loss_of, batches, config, folder, label="depth encoder", world=world)
        if world.size > 1:  # what was trained in pieces is whole again, but still has the hooks of the pieces
            whole = DepthEncoder(vision_tower(model.vlm)).to(model.device)
            whole.load_state_dict(model.depth_encoder.state_dict())
            model.depth_encoder = alignment.encoder = whole
        alignment.eval()
        recall = measure_recall(model, alignment, test, config.batch_size)
        if world.is_first:
            save_weights(model.depth_encoder, folder / _WEIGHTS)
            record = {"level": recipe.level, **_read_by(model), "pairs": len(learn), "held_out": len(test)}
            write_json(folder / _RECORD, record | {"recall": recall})
            remove_all(folder)
    return recall


def start_aligning(base: str | Path, fusion: Fusion, kind: DepthKind, recipe: AlignRecipe) -> DepthVLM:
    """What :func:`align` needs of a published VLM: its vision tower with a depth encoder; it can answer nothing.

    The language model, most of the weights, is let go of. On a GPU the frozen tower is in bf16.

    Args:
        base: hub id or folder.
        kind: of the pairs' depth.
    """
    device = pick_device()
    config = DepthVLMConfig(fusion=fusion, depth_kind=kind, depth_range=recipe.depth_range)
    model = start_depth_vlm(base, config, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    model.vlm.model.language_model = model.vlm.lm_head = nn.Identity()
    return model.to(device)


def load_aligned(model: DepthVLM, folder: Path) -> dict[str, float]:
    """Give a model the depth encoder that :func:`align` left in a folder; returns the recall that it had.

    Raises:
        UserError: there is none, or it belongs to another VLM, kind of depth, or depth range.
    """
    _check_encoder(model)
    record = read_json(folder / _RECORD, "aligned depth encoder")
    for name, ours in _read_by(model).items():
        if (theirs := record.get(name)) != ours:
            raise UserError(
                f"{folder} was aligned with {name} = {theirs}, and the model has {ours}: say the same here with "
                f"{_SAID[name]}"
            )
    load_weights(model.depth_encoder, folder / _WEIGHTS)
    recall: dict[str, float] = record["recall"]
    return recall


@torch.no_grad()
def measure_recall(model: DepthVLM, alignment: Alignment, pairs: Sequence[Pair], batch_size: int) -> dict[str, float]:
    """Retrieval recall RGB ↔ depth on pairs as they are, neither mirrored nor turned, whatever was learnt from.

    Returns:
        ``image_…`` among all pictures, and ``patch_…`` among the patches of each picture, see
        :func:`fathom.vlm.alignment.retrieval_recall`.
    """
    rgb, depth, within = [], [], []
    for begin in range(0, len(pairs), batch_size):
        batch = _read(model, pairs[begin : begin + batch_size])
        seen = alignment.features(**_on(model, batch))
        rgb.append(image_embeddings(seen[0]).float().cpu())
        depth.append(image_embeddings(seen[1]).float().cpu())
        within += [retrieval_recall(*patches) for patches in zip(*seen, strict=True)]
    among = retrieval_recall(torch.cat(rgb), torch.cat(depth))
    means = {name: sum(picture[name] for picture in within) / len(within) for name in among}
    return {f"image_{name}": value for name, value in among.items()} | {
        f"patch_{name}": value for name, value in means.items()
    }


def _loss_of(alignment: Alignment) -> LossOf[PairBatch]:
    device = next(alignment.parameters()).device

    def loss_of(part: PairBatch, whole: Whole, step: int, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        loss = alignment(**{name: tensor.to(device) for name, tensor in part.inputs.items()})
        # the losses of all parts and processes add up to their mean
        return loss * len(part) / len(whole), {}

    return loss_of


def _batches(
    model: DepthVLM, pairs: Sequence[Pair], recipe: AlignRecipe, config: TrainingConfig, world: World
) -> Callable[[int], Iterator[PairBatch]]:
    share = world.share_of(config.batch_size)
    order = ShuffledBatches(len(pairs), share, seed=config.seed, rank=world.rank, world_size=world.size)

    def indices(position: int) -> Sequence[int]:
        """Of pictures that are told apart none is twice in a batch: each epoch ends with its last whole one."""
        if recipe.level == "patch":
            return order.indices(position).tolist()
        epoch, place = divmod(position, len(pairs) // config.batch_size)
        begin = (place * world.size + world.rank) * share
        return order.order(epoch)[begin : begin + share].tolist()

    def batches(step: int) -> Iterator[PairBatch]:
        for position in count(step):
            chosen = [pairs[index] for index in indices(position)]
            first = (position * world.size + world.rank) * share  # of all samples of the run
            rngs = [np.random.default_rng([config.seed, first + place]) for place in range(share)]
            yield _read(model, chosen, rngs, recipe.degrees)

    return batches


def _read(
    model: DepthVLM, pairs: Sequence[Pair], rngs: Sequence[np.random.Generator] | None = None, degrees: float = 0.0
) -> PairBatch:
    """Pairs as a batch; with a generator for each they are mirrored and turned."""
    kind: DepthKind = model.config.depth_kind
    images, depths = [], []
    for place, pair in enumerate(pairs):
        image = read_image(pair.image)
        depth = depth_of(image, pair.depth, kind, "mm" if kind == "metric" else None).values[0]
        if rngs is not None:
            image, depth = flip_and_turn(image, depth, rngs[place], degrees)
        images.append(image)
        depths.append(depth)
    return PairBatch(**model.processor.look(images, depths))


def _on(model: DepthVLM, batch: PairBatch) -> dict[str, Tensor]:
    return {name: tensor.to(model.device) for name, tensor in batch.inputs.items()}


def _check_encoder(model: DepthVLM) -> None:
    if not model.config.has_encoder:
        raise UserError(
            f"fusion = {model.config.fusion} has no depth encoder to align: take concat (with depth_tokens = encoder) "
            "or adapter"
        )


def _check_batch(pairs: int, recipe: AlignRecipe) -> None:
    if recipe.level == "image" and recipe.training.batch_size > pairs:
        raise UserError(
            f"batch_size is {recipe.training.batch_size}, and there are {pairs} pairs to learn from: a picture would "
            "be told apart from itself; set --training.batch-size to fewer, or take more pairs"
        )


def _read_by(model: DepthVLM) -> dict[str, Any]:
    """What an encoder belongs to, as JSON values: the VLM and the depth that it reads."""
    config = model.config
    depth_range = asdict(config.depth_range) if config.depth_kind == "metric" else None
    return {"base": config.base, "depth_kind": config.depth_kind, "depth_range": depth_range}


def _digest(pairs: Sequence[Pair]) -> str:
    names = json.dumps([[pair.name, str(pair.depth)] for pair in pairs])
    return hashlib.sha256(names.encode()).hexdigest()[:16]
