"""Action-guided visual pruning: which of the vision expert's tokens enter the layers that meet.

Source: arXiv 2603.15618. The attention of the guiding tokens on the image, averaged over these tokens and their heads
and then over the guiding layers, is brought to the expert's grid; the most attended patches of each camera stay.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fathom.mixture import Pass
from fathom.policies.deepvision_vla.config import DeepVisionVLAConfig
from fathom.policies.deepvision_vla.layout import Layout
from fathom.policies.deepvision_vla.streams import expert_blocks
from fathom.policies.deepvision_vla.vision_config import ExpertConfig, PruningConfig


class Pruner:
    """Watches one pass, and says which tokens stay.

    No gradient flows through the choice, and it is made alike in training and in acting. All shapes are known
    beforehand: each camera keeps as many tokens, whatever its picture.

    Args:
        expert, pruning: the vision expert and how it is pruned.
        prefix: tokens of the expert that stand for no place, and always stay.
        text_valid: which tokens of the instruction are no padding.
    """

    def __init__(
        self,
        config: DeepVisionVLAConfig,
        expert: ExpertConfig,
        pruning: PruningConfig,
        prefix: int,
        text_valid: Bool[Tensor, "batch text"],
    ) -> None:
        self.guide, self.layers = pruning.guide, tuple(config.guiding)
        self.blocks, self.layout = expert_blocks(config), Layout.of(config)
        self.grid, self.prefix, self.count = expert.grid, prefix, pruning.kept(expert.grid**2)
        self.text_valid = text_valid
        self.maps: list[Float[Tensor, "batch cameras side side"]] = []

    def watch(self, passing: Pass, step: Mapping[str, int]) -> None:
        """Take the attention of the step that was just done, if it is that of a guiding layer."""
        stream = "expert" if self.guide == "cls" else "vlm"
        if step.get(stream) not in self.layers:
            return
        with torch.no_grad():
            self.maps.append(self._of_cls(passing) if stream == "expert" else self._of_text(passing))

    def scores(self) -> Float[Tensor, "batch cameras grid grid"]:
        """How much each of the expert's patches was attended to."""
        mean = torch.stack(self.maps).mean(0)
        return F.interpolate(mean, (self.grid, self.grid), mode="bilinear", align_corners=False)

    def kept(self) -> dict[str, Int[Tensor, "batch kept"]]:
        """For each block of the expert the tokens that stay, in their order: what comes before the patches, and the
        most attended patches."""
        best = self.scores().flatten(2).topk(self.count, -1).indices.sort(-1).values + self.prefix
        first = torch.arange(self.prefix, device=best.device).expand(*best.shape[:2], -1)
        index = torch.cat([first, best], -1)
        return dict(zip(self.blocks, index.unbind(1), strict=True))

    def _of_text(self, passing: Pass) -> Float[Tensor, "batch cameras side side"]:
        """The attention of the actions or of the instruction on each camera's image tokens."""
        if self.guide == "action":
            mean = passing.attention("action").mean((1, 2))
        else:
            weights = passing.attention("prompt", self.layout.instruction).mean(1)
            counts = self.text_valid[..., None].to(weights.dtype)
            mean = (weights * counts).sum(1) / counts.sum(1).clamp(min=1)
        prompt = mean[:, passing.keys("prompt")]
        images = [prompt[:, self.layout.image(camera)] for camera in range(self.layout.cameras)]
        return torch.stack(images, 1).unflatten(2, (self.layout.grid, self.layout.grid))

    def _of_cls(self, passing: Pass) -> Float[Tensor, "batch cameras grid grid"]:
        """The attention of each camera's CLS token on its patches."""
        maps = []
        for block in self.blocks:
            row = passing.attention(block, slice(0, 1)).mean((1, 2))
            maps.append(row[:, passing.keys(block)][:, self.prefix :])
        return torch.stack(maps, 1).unflatten(2, (self.grid, self.grid))
