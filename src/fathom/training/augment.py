"""Pictures changed at random while a policy learns: another crop, other light. Depth follows the crop alone.

All of a batch is changed at once, on the device. A sample's draws follow from the seed, the step and its frame index
(:class:`~fathom.data.draws.Draws`), so they do not depend on how the batch is divided.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fathom.data.batch import Batch
from fathom.data.draws import Draws

_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclass(frozen=True)
class Augmentation:
    """How much pictures are changed; zero, and a crop of 1, is not at all. The defaults are Octo's and open-pi-zero's.

    Attributes:
        crop: at least this share of the picture's area is kept and blown up to its size; its shape stays [D]. Cameras
            with `wrist` in their name are not cropped (as in openpi).
        brightness: at most this is added, where white is 1.
        contrast: distances from the picture's mean grow or shrink by at most this share.
        saturation: likewise distances from grey.
        hue: colours turn by at most this share of the colour circle.
    """

    crop: float = 0.8
    brightness: float = 0.1
    contrast: float = 0.1
    saturation: float = 0.1
    hue: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"augmentation.crop is {self.crop}: it is the share that is kept, above 0 and at most 1")
        for name in (known.name for known in fields(self) if known.name != "crop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"augmentation.{name} is {getattr(self, name)}: it must be from 0 to below 1")

    @property
    def crops(self) -> bool:
        """Whether depth is changed too, so that codes that were made beforehand do not fit."""
        return self.crop < 1

    @property
    def colours(self) -> bool:
        """Whether any colour is changed."""
        return max(self.brightness, self.contrast, self.saturation, self.hue) > 0


def augment(batch: Batch, how: Augmentation, draws: Draws, device: torch.device | str = "cpu") -> Batch:
    """The batch on ``device`` with its pictures changed; they are then floats in [0, 1] where colours are.

    Depth, present and ahead, has the window of the camera ``main``. Every camera has colours of its own.
    """
    batch = replace(batch.to(device), index=batch.index)  # which is read here, where reading need not wait
    changed = dict(batch.images)
    for name, picture in batch.images.items():
        if how.crops and "wrist" not in name:
            changed[name] = _cropped(picture, _window(batch, how, draws, name).to(picture.device), "bilinear")
        if how.colours:
            changed[name] = _recoloured(changed[name], how, draws.uniform(batch, (4,), f"colours of {name}"))
    if not how.crops:
        return replace(batch, images=changed)
    window = _window(batch, how, draws, "main")
    depth: dict[str, Any] = {
        name: _cropped(picture, window.to(picture.device), "nearest")
        for name, picture in (("depth", batch.depth), ("future_depth", batch.future_depth))
        if picture is not None
    }
    return replace(batch, images=changed, **depth)


def _window(batch: Batch, how: Augmentation, draws: Draws, camera: str) -> Float[Tensor, "batch 3"]:
    """Side of the kept square and its centre, where the picture reaches from -1 to 1."""
    area, x, y = draws.uniform(batch, (3,), f"crop of {camera}").float().unbind(1)
    side = (how.crop + (1 - how.crop) * area).sqrt()
    return torch.stack([side, (1 - side) * (2 * x - 1), (1 - side) * (2 * y - 1)], 1)


def _cropped(picture: Tensor, window: Float[Tensor, "batch 3"], mode: str) -> Tensor:
    """The window of each picture at the picture's size."""
    side, x, y = window.unbind(1)
    zero = torch.zeros_like(side)
    matrix = torch.stack([torch.stack([side, zero, x], 1), torch.stack([zero, side, y], 1)], 1)
    with torch.autocast(picture.device.type, enabled=False):
        grid = F.affine_grid(matrix, list(picture.shape), align_corners=False)
        cut = F.grid_sample(picture.float(), grid, mode=mode, padding_mode="border", align_corners=False)
    return cut if picture.is_floating_point() else cut.round().to(picture.dtype)


def _recoloured(picture: Tensor, how: Augmentation, drawn: Float[Tensor, "batch 4"]) -> Float[Tensor, "batch 3 h w"]:
    """Brightness, contrast, saturation and hue, in this order."""
    drawn = (2 * drawn - 1).float().to(picture.device)
    picture = picture.float() / (1 if picture.is_floating_point() else 255)
    brightness, contrast = (drawn[:, i, None, None, None] * s for i, s in enumerate((how.brightness, how.contrast)))
    picture = picture + brightness
    mean = picture.mean((2, 3), keepdim=True)
    picture = mean + (picture - mean) * (1 + contrast)
    if how.saturation or how.hue:
        matrices = _colour_matrices(1 + how.saturation * drawn[:, 2], 2 * math.pi * how.hue * drawn[:, 3])
        with torch.autocast(picture.device.type, enabled=False):
            picture = torch.einsum("brc,bchw->brhw", matrices, picture)
    return picture.clamp(0, 1)


def _colour_matrices(saturation: Float[Tensor, " batch"], angle: Float[Tensor, " batch"]) -> Float[Tensor, "batch 3 3"]:
    """Of red, green and blue: in YIQ, colour is a plane beside brightness, which is scaled and turned."""
    to_yiq = _TO_YIQ.to(saturation)
    cos, sin, one, zero = angle.cos(), angle.sin(), torch.ones_like(angle), torch.zeros_like(angle)
    turned = saturation[:, None] * torch.stack([cos, -sin, sin, cos], 1)
    rows = [
        torch.stack([one, zero, zero], 1),
        torch.stack([zero, *turned[:, :2].unbind(1)], 1),
        torch.stack([zero, *turned[:, 2:].unbind(1)], 1),
    ]
    return torch.linalg.inv(to_yiq) @ torch.stack(rows, 1) @ to_yiq
