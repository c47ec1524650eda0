"""From a camera's picture to what each encoder sees."""

import torch
from jaxtyping import Float
from torch import Tensor

from fathom.data.resize import unit_picture
from fathom.errors import UserError
from fathom.policies.deepvision_vla.vision_config import ExpertConfig

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, by which DINOv3 normalises."""


def square(image: Tensor, camera: str, blind: bool) -> Tensor:
    """The picture as it is, or a grey one.

    Raises:
        UserError: it is not square, and would be squeezed.
    """
    height, width = image.shape[-2:]
    check_square(camera, height, width)
    return torch.full_like(image, 128 if image.dtype == torch.uint8 else 0.5) if blind else image


def check_square(camera: str, height: int, width: int) -> None:
    """A UserError where a camera's pictures would be squeezed."""
    if height != width:
        raise UserError(
            f"camera {camera!r} gives pictures of {width} x {height} pixels, and the policy sees square ones: "
            "crop or pad them to a square"
        )


def tower_picture(image: Tensor, size: int) -> Float[Tensor, "batch 3 {size} {size}"]:
    """In [-1, 1], as Qwen3-VL's tower and SigLIP see it."""
    return unit_picture(image, size) * 2 - 1


def expert_picture(image: Tensor, expert: ExpertConfig) -> Float[Tensor, "batch 3 size size"]:
    """As the vision expert sees it."""
    if expert.encoder == "siglip":
        return tower_picture(image, expert.image_size)
    unit = unit_picture(image, expert.image_size)
    mean, deviation = (unit.new_tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
    return (unit - mean) / deviation
