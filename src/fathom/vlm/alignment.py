"""Teaching a depth encoder to see what an RGB encoder sees (seed 003, SPEC §2)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed, nn
from torch.distributed.nn import functional as distributed_functions
from torch.nn import functional as F

from fathom.depth.depth_map import LogRange
from fathom.vlm.depth_encoder import DepthEncoder
from fathom.vlm.depth_encoding import one_channel
from fathom.vlm.qwen import out_of_tower_order

TEMPERATURE = 0.07

Level = Literal["image", "patch"]
"""What is told apart: the images of a batch (CLIP), or the patches of one image (CoMAE), which suits small data."""


class Alignment(nn.Module):
    """A depth encoder beside the frozen vision tower whose features it learns to match.

    Both features are of the tower's width and compared as they are: there is no projection that would be thrown away
    afterwards, so that the VLM's own merger can read what is learnt.
    """

    def __init__(self, encoder: DepthEncoder, rgb_tower: Any, depth_range: LogRange | None, level: Level) -> None:
        """Put them side by side; ``rgb_tower`` is frozen.

        Args:
            depth_range: of metric depth; ``None`` for relative inverse depth.
        """
        super().__init__()
        self.encoder = encoder
        self.rgb_tower = rgb_tower.requires_grad_(False)
        self.depth_range = depth_range
        self.level = level

    def features(
        self,
        pixel_values: Float[Tensor, "patches values"],
        depth_values: Float[Tensor, "patches pixels"],
        image_grid_thw: Int[Tensor, "images 3"],
    ) -> tuple[list[Float[Tensor, "patches width"]], list[Float[Tensor, "patches width"]]]:
        """The patches of each picture, and those of its depth, in the same order; the inputs are the processor's."""
        sizes = image_grid_thw.prod(dim=-1).tolist()
        with torch.no_grad():
            hidden = self.rgb_tower(pixel_values, grid_thw=image_grid_thw).last_hidden_state
            rgb = out_of_tower_order(hidden, self.rgb_tower, image_grid_thw)
        depth = self.encoder(one_channel(depth_values, self.depth_range), image_grid_thw)
        return list(rgb.split(sizes)), list(depth.split(sizes))

    def forward(
        self,
        pixel_values: Float[Tensor, "patches values"],
        depth_values: Float[Tensor, "patches pixels"],
        image_grid_thw: Int[Tensor, "images 3"],
    ) -> Float[Tensor, ""]:
        """The loss on pairs of pictures and depth."""
        rgb, depth = self.features(pixel_values, depth_values, image_grid_thw)
        if self.level == "patch":
            return patch_loss(rgb, depth)
        return image_loss(image_embeddings(rgb), image_embeddings(depth))


def image_embeddings(patches: Sequence[Float[Tensor, "patches width"]]) -> Float[Tensor, "images width"]:
    """One vector for each image: the mean of its patches."""
    return torch.stack([image.mean(dim=0) for image in patches])


def image_loss(
    rgb: Float[Tensor, "batch width"], depth: Float[Tensor, "batch width"], temperature: float = TEMPERATURE
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE: which depth belongs to a picture, and which picture to a depth, among those of all processes.

    Every process counts its own rows and columns; the mean over the processes, of the loss and of the gradients, is
    that of the whole batch on one. All processes must have batches of the same size.
    """
    rgb, depth = F.normalize(rgb.float(), dim=-1), F.normalize(depth.float(), dim=-1)
    all_rgb, all_depth = gather_with_gradient(rgb), gather_with_gradient(depth)
    first = distributed.get_rank() * len(rgb) if _is_distributed() else 0
    own = torch.arange(first, first + len(rgb), device=rgb.device)
    to_depth = F.cross_entropy(rgb @ all_depth.T / temperature, own)
    to_rgb = F.cross_entropy(depth @ all_rgb.T / temperature, own)
    return (to_depth + to_rgb) / 2


def patch_loss(
    rgb: Sequence[Float[Tensor, "patches width"]],
    depth: Sequence[Float[Tensor, "patches width"]],
    temperature: float = TEMPERATURE,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE within each image: which patch of its depth belongs to a patch of RGB, and the other way."""
    losses = []
    for picture, its_depth in zip(rgb, depth, strict=True):
        a, b = F.normalize(picture.float(), dim=-1), F.normalize(its_depth.float(), dim=-1)
        similarity = a @ b.T / temperature
        own = torch.arange(len(a), device=a.device)
        losses.append((F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2)
    return torch.stack(losses).mean()


@torch.no_grad()
def retrieval_recall(
    rgb: Float[Tensor, "items width"], depth: Float[Tensor, "items width"], ranks: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """How often an image's or patch's partner is among the nearest, both ways: ``rgb_to_depth@1``, ``depth_to_rgb@5`` …

    A partner that is no nearer than another does not come before it: features that are all alike find nothing.
    """
    similarity = F.normalize(rgb.double(), dim=-1) @ F.normalize(depth.double(), dim=-1).T
    recalls: dict[str, float] = {}
    for name, scores in (("rgb_to_depth", similarity), ("depth_to_rgb", similarity.T)):
        partner = scores.diagonal()[:, None]
        rank = (scores >= partner - 1e-9).sum(dim=-1)  # 1e-9: equal features differ by rounding
        recalls |= {f"{name}@{k}": float((rank <= k).double().mean()) for k in ranks}
    return recalls


def gather_with_gradient(rows: Float[Tensor, "batch width"]) -> Float[Tensor, "everyones width"]:
    """The rows of all processes in the order of their ranks; their gradients find the way back."""
    return torch.cat(distributed_functions.all_gather(rows)) if _is_distributed() else rows


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
