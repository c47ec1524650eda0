"""The one way in which pictures are resized, in training and in acting."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F


def resize(
    pictures: UInt8[Tensor, "batch channels height width"] | Float[Tensor, "batch channels height width"], size: int
) -> Tensor:
    """``pictures`` as size × size, antialiased bilinear, of the same type; unchanged where they have that size."""
    if pictures.shape[-2:] == (size, size):
        return pictures
    if pictures.dtype == torch.uint8:
        # in float and rounded once: the same numbers on every device
        small = F.interpolate(pictures.float(), (size, size), mode="bilinear", antialias=True)
        return small.round().clamp(0, 255).to(torch.uint8)
    return F.interpolate(pictures, (size, size), mode="bilinear", antialias=True)


def unit_picture(picture: Tensor, size: int) -> Float[Tensor, "batch channels {size} {size}"]:
    """Pictures, uint8 or of floats in [0, 1], as size × size in [0, 1]."""
    small = resize(picture, size)
    return small.float() / 255 if small.dtype == torch.uint8 else small.float()
