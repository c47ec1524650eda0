"""Other ways for a vision expert to reach the language model, for comparison with the shared attention."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fathom.mixture import Block, Mixture, Visibility, VisionStream
from fathom.mixture.dinov3 import patch_centres
from fathom.policies.deepvision_vla.streams import vision_stream
from fathom.policies.deepvision_vla.vision_config import ExpertConfig


class Silent(nn.Linear):
    """A linear map that begins at zero, so that pretrained tokens to which it adds begin as they were."""

    def reset_parameters(self) -> None:
        """All zeros."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class WholeExpert(nn.Module):
    """A vision expert that runs by itself to its end, and whose patches are brought to the language model's grid.

    Args:
        expert: its sizes.
        grid: image tokens of the language model along one side.
        vlm_width: of the language model's tokens.
    """

    def __init__(self, expert: ExpertConfig, grid: int, vlm_width: int) -> None:
        super().__init__()
        self.expert, self.grid = expert, grid
        self.mixture = Mixture(
            {"expert": vision_stream(expert)}, {"expert": "expert"}, Visibility({"expert": "expert"})
        )
        early = expert.fusion == "early"
        self.project = Silent(expert.width, vlm_width) if early else nn.Linear(vlm_width, expert.width)

    def features(
        self, pixels: Float[Tensor, "batch cameras 3 size size"], scale: float | Tensor = 1.0
    ) -> Float[Tensor, "batch cameras tokens expert_width"]:
        """The expert's output, averaged over the patches of each of the language model's image tokens."""
        images = pixels.flatten(0, 1)
        transformer = cast(VisionStream, self.mixture.streams["expert"])
        hidden, prefix = transformer.embed(images), transformer.prefix_tokens
        places = F.pad(patch_centres(self.expert.grid, hidden.device) * scale, (0, 0, prefix, 0))
        out, _ = self.mixture([Block("expert", hidden, places.expand(len(images), -1, -1))])
        patches = out["expert"][:, prefix:].mT.unflatten(2, (self.expert.grid, self.expert.grid))
        return F.adaptive_avg_pool2d(patches, self.grid).flatten(2).mT.unflatten(0, pixels.shape[:2])

    def added(self, pixels: Tensor, scale: float | Tensor = 1.0) -> Float[Tensor, "batch cameras tokens vlm_width"]:
        """Early fusion: what is added to the image tokens."""
        return self.project(self.features(pixels, scale))

    def misalignment(
        self, image: Float[Tensor, "batch cameras tokens vlm_width"], pixels: Tensor
    ) -> Float[Tensor, " batch"]:
        """Alignment: one minus the cosine between the language model's image tokens, mapped, and the expert's output.

        The expert itself is not trained by it.
        """
        with torch.no_grad():
            target = self.features(pixels)
        return (1 - F.cosine_similarity(self.project(image).float(), target.float(), dim=-1)).mean((1, 2))
