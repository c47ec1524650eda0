"""Training a depth encoder to see in depth what the VLM's own vision tower sees in pictures (seed 003, SPEC §2)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import count
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fathom.config import read_json
from fathom.data.loader import ShuffledBatches
from fathom.depth.depth_map import DepthKind
from fathom.errors import UserError
from fathom.files import write_json
from fathom.training.checkpoint import remove_all
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.training.distributed import World, joined
from fathom.training.loop import train
from fathom.training.settings import check, claim
from fathom.vlm.alignment import Alignment, Level, image_embeddings, retrieval_recall
from fathom.vlm.depth_encoder import DepthEncoder
from fathom.vlm.depth_input import depth_of, read_image
from fathom.vlm.model import DepthVLM
from fathom.vlm.pairs import Pair, flip_and_turn
from fathom.vlm.qwen import vision_tower
from fathom.weights import load_weights, save_weights

_WEIGHTS, _RECORD = "depth_encoder.safetensors", "alignment.json"


@dataclass(frozen=True)
class AlignRecipe:
    """How a depth encoder is aligned.

    Attributes:
        level: what is told apart, see :data:`fathom.vlm.alignment.Level`.
        held_out: share of the pairs that is not trained on, but tested with.
        degrees: by which a picture and its depth are turned at most; they are mirrored every second time.
        training: the run; of ``image``, a batch is what each picture is told apart from.
    """

    level: Level = "image"
    held_out: float = 0.1
    degrees: float = 5.0
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
    """Pictures and depth as the model's processor gives them, and what the training loop asks of a batch.

    Attributes:
        image_grid_thw: its rows are the pictures.
    """

    pixel_values: Float[Tensor, "patches values"]
    depth_values: Float[Tensor, "patches pixels"]
    image_grid_thw: Int[Tensor, "images 3"]

    future_is_pad = None
    images: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    instruction: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.image_grid_thw)

    @property
    def action_is_pad(self) -> Bool[Tensor, "images 0"]:
        """There are no actions: every picture counts alike."""
        return torch.zeros(len(self), 0, dtype=torch.bool)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What :class:`fathom.vlm.alignment.Alignment` reads."""
        return {one.name: getattr(self, one.name) for one in fields(self)[:3]}

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

    Run it under ``torchrun`` for several processes: each picture is then told apart from those of all of them.

    Args:
        test: pairs held out.
        folder: gets ``depth_encoder.safetensors`` and ``alignment.json``, see :func:`load_aligned`.

    Returns:
        recall on the pairs held out, see :func:`fathom.vlm.alignment.retrieval_recall`.

    Raises:
        UserError: the model has no depth encoder, a picture or depth map is bad, or the folder is another run's.
    """
    _check_encoder(model)
    config = recipe.training.for_frames(len(learn))
    check(folder, recipe)
    if (folder / _RECORD).is_file():
        return load_aligned(model, folder)
    depth_range = model.config.depth_range if model.config.depth_kind == "metric" else None
    alignment = Alignment(model.depth_encoder, vision_tower(model.vlm), depth_range, recipe.level)
    with joined(config) as world:
        claim(folder, recipe)
        loss_of = _loss_of(alignment, world)
        batches = _batches(model, learn, recipe, config, world)
        train(alignment, loss_of, batches, config, folder, label="depth encoder", world=world)  # type: ignore[arg-type]
        if world.size > 1:  # what was trained in pieces is whole again, but still has the hooks of the pieces
            whole = DepthEncoder(vision_tower(model.vlm)).to(model.device)
            whole.load_state_dict(model.depth_encoder.state_dict())
            model.depth_encoder = alignment.encoder = whole
        alignment.eval()
        recall = measure_recall(model, alignment, test, config.batch_size)
        if world.is_first:
            save_weights(model.depth_encoder, folder / _WEIGHTS)
            record = {"level": recipe.level, "base": model.config.base, "depth_kind": model.config.depth_kind}
            write_json(folder / _RECORD, record | {"pairs": len(learn), "held_out": len(test), "recall": recall})
            remove_all(folder)
    return recall


def load_aligned(model: DepthVLM, folder: Path) -> dict[str, float]:
    """Give a model the depth encoder that :func:`align` left in a folder; returns the recall that it had.

    Raises:
        UserError: there is none, or it is of another shape or kind of depth.
    """
    _check_encoder(model)
    record = read_json(folder / _RECORD, "aligned depth encoder")
    if record.get("depth_kind") != model.config.depth_kind:
        raise UserError(
            f"{folder} was aligned with {record.get('depth_kind')} depth, and the model reads {model.config.depth_kind}"
        )
    load_weights(model.depth_encoder, folder / _WEIGHTS)
    recall: dict[str, float] = record["recall"]
    return recall


@torch.no_grad()
def measure_recall(model: DepthVLM, alignment: Alignment, pairs: Sequence[Pair], batch_size: int) -> dict[str, float]:
    """Retrieval recall RGB ↔ depth on pairs as they are, neither mirrored nor turned."""
    rgb, depth = [], []
    for begin in range(0, len(pairs), batch_size):
        batch = _read(model, pairs[begin : begin + batch_size])
        seen = alignment.features(**_on(model, batch))
        rgb.append(image_embeddings(seen[0]).float().cpu())
        depth.append(image_embeddings(seen[1]).float().cpu())
    return retrieval_recall(torch.cat(rgb), torch.cat(depth))


def _loss_of(alignment: Alignment, world: World) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    device = next(alignment.parameters()).device

    def loss_of(part: PairBatch, whole: Any, step: int, draws: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss = alignment(**{name: tensor.to(device) for name, tensor in part.inputs.items()})
        # the losses of all parts and processes add up to their mean
        return loss * len(part) / len(whole), {}

    return loss_of


def _batches(
    model: DepthVLM, pairs: Sequence[Pair], recipe: AlignRecipe, config: TrainingConfig, world: World
) -> Callable[[int], Iterator[PairBatch]]:
    share = world.share_of(config.batch_size)
    order = ShuffledBatches(len(pairs), share, seed=config.seed, rank=world.rank, world_size=world.size)

    def batches(step: int) -> Iterator[PairBatch]:
        for position in count(step):
            chosen = [pairs[index] for index in order.indices(position)]
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
