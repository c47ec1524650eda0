"""What stands before and behind a depth expert's transformer."""

from jaxtyping import Float
from torch import Tensor, nn

from fathom.policies.depth_expert.config import DepthConfig
from fathom.policies.depth_expert.targets import TARGETS


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
