"""What stands before and behind the experts' transformers: action encoder and depth head."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fathom.policies.conventions import Conventions
from fathom.policies.qdepth_vla.config import DepthConfig
from fathom.policies.qdepth_vla.depth_targets import TARGETS


class ActionEncoder(nn.Module):
    """Noisy actions and the flow time to tokens: Linear, join the time, Linear, SiLU, Linear."""

    def __init__(self, action_dim: int, width: int, conventions: Conventions) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(action_dim, width)
        self.linear_2 = nn.Linear(2 * width, width)
        self.linear_3 = nn.Linear(width, width)
        self.conventions = conventions

    def forward(
        self, actions: Float[Tensor, "batch horizon action"], time: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch horizon width"]:
        """Embed each step of the noisy chunk."""
        embedded = self.linear_1(actions)
        when = self.conventions.time_embedding(time, embedded.shape[-1])
        when = when[:, None].to(embedded.dtype).expand_as(embedded)
        joined = (when, embedded) if self.conventions.time_first else (embedded, when)
        return self.linear_3(F.silu(self.linear_2(torch.cat(joined, -1))))


class DepthHead(nn.Module):
    """The depth expert without its transformer: an MLP from the visual tokens, a shallow CNN to what is predicted.

    Source: QDepth-VLA section 3.3. The CNN's shape is unstated: a 3x3 convolution, then a 1x1 that also
    upsamples [D]. For the depth ahead a second CNN reads the same tokens [D].

    Args:
        vision_width: width of the visual tokens, before language fusion.
        width: width of the expert's transformer.
        image_grid: side of the grid of visual tokens.

    Raises:
        ValueError: the grid of depth tokens is neither that nor twice that.
    """

    def __init__(self, config: DepthConfig, vision_width: int, width: int, image_grid: int) -> None:
        super().__init__()
        if config.grid not in (image_grid, 2 * image_grid):
            raise ValueError(f"the depth grid {config.grid} must be the image tokens' grid {image_grid} or twice that")
        self.target = TARGETS[config.target](config)
        self.image_grid = image_grid
        self.project_in = nn.Sequential(nn.Linear(vision_width, width), nn.GELU(), nn.Linear(width, width))
        upsample = config.grid // image_grid
        self.decoder = _decoder(width, self.target.values, upsample)
        self.future_decoder = _decoder(width, self.target.values, upsample) if config.future else None

    def forward(
        self, hidden: Float[Tensor, "batch tokens width"], *, ahead: bool = False
    ) -> Float[Tensor, "batch depth_tokens values"]:
        """The expert's output to one vector for each depth token, of the present or of ``config.future`` frames ahead.

        Raises:
            ValueError: the depth ahead was asked for and is not predicted.
        """
        decoder = self.future_decoder if ahead else self.decoder
        if decoder is None:
            raise ValueError("this policy predicts no depth ahead: it was built with depth.future = 0")
        grid = hidden.mT.unflatten(2, (self.image_grid, self.image_grid))
        return decoder(grid).flatten(2).mT


def _decoder(width: int, values: int, upsample: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(width, values * upsample**2, 1),
        nn.PixelShuffle(upsample),
    )
