"""The head of Video-Depth-Anything: four layers of the encoder, fused coarse to fine, with motion modules between.

What concerns a frame alone (:meth:`TemporalHead.of_frames`) and what a window of frames does together
(:meth:`TemporalHead.over_time`) and the finest steps, again of each frame (:meth:`TemporalHead.to_depth`), are apart:
a frame that appears in several windows goes through the first only once, and one that nobody reads not through the
last.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from fathom.depth.estimators.video_depth_anything.config import VideoDepthConfig
from fathom.depth.estimators.video_depth_anything.motion import MotionModule

_FRAMES_AT_ONCE = 4  # the finest maps are large


class FrameFeatures(NamedTuple):
    """What the head keeps of each frame, on grids of 4, 2, 1 and ½ cells a patch; one row per frame."""

    finest: Float[Tensor, "frames features height4 width4"]
    fine: Float[Tensor, "frames features height2 width2"]
    coarse: Float[Tensor, "frames channels2 height width"]
    coarsest: Float[Tensor, "frames channels3 half_height half_width"]

    def select(self, rows: Int[Tensor, "rows"]) -> "FrameFeatures":
        """Those of some frames."""
        return FrameFeatures(*(maps[rows] for maps in self))

    @staticmethod
    def join(*parts: "FrameFeatures") -> "FrameFeatures":
        """One after the other."""
        return FrameFeatures(*(torch.cat(maps) for maps in zip(*parts, strict=True)))


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(features, features, 3, padding=1) for _ in range(2))

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.conv2(self.conv1(maps.relu()).relu())


class Fusion(nn.Module):
    """Adds a finer layer (``skip`` is what it goes through first) to the coarser ones, and enlarges the sum."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.skip, self.sum = Residual(features), Residual(features)
        self.out = nn.Conv2d(features, features, 1)

    def forward(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        # A 1×1 convolution may stand before or after the interpolation; before, it has fewer pixels to go through.
        return _enlarge(self.out(self.sum(maps)), size)


class TemporalHead(nn.Module):
    """From encoder tokens to depth."""

    def __init__(self, config: VideoDepthConfig) -> None:
        super().__init__()
        first, second, third, fourth = config.out_channels
        features = config.features
        self.patch_size = config.encoder.patch_size
        self.project = nn.ModuleList(nn.Conv2d(config.encoder.width, c, 1) for c in config.out_channels)
        self.resize = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(fourth, fourth, 3, stride=2, padding=1),
            ]
        )
        self.reduce = nn.ModuleList(nn.Conv2d(c, features, 3, padding=1, bias=False) for c in config.out_channels)
        self.fuse = nn.ModuleList(Fusion(features) for _ in config.out_channels)
        self.motion = nn.ModuleList(MotionModule(c) for c in (third, fourth, features, features))
        self.shrink = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output = nn.ModuleList([nn.Conv2d(features // 2, 32, 3, padding=1), nn.Conv2d(32, 1, 1)])

    def of_frames(self, layers: list[Float[Tensor, "frames patches width"]], grid: tuple[int, int]) -> FrameFeatures:
        """What the four encoder layers say about each frame.

        Args:
            layers: patch tokens in raster order, fine to coarse.
            grid: patches from top to bottom and from left to right.
        """
        maps = [
            resize(project(tokens.transpose(1, 2).unflatten(2, grid)))
            for tokens, project, resize in zip(layers, self.project, self.resize, strict=True)
        ]
        finest, fine = (self.fuse[i].skip(self.reduce[i](maps[i])) for i in range(2))  # type: ignore[operator, union-attr]
        return FrameFeatures(finest, fine, maps[2], maps[3])

    def over_time(
        self,
        coarse: Float[Tensor, "windows time channels2 height width"],
        coarsest: Float[Tensor, "windows time channels3 half_height half_width"],
        size: tuple[int, int],
    ) -> Float[Tensor, "windows time features height2 width2"]:
        """The two coarse layers of each window, fused, on the grid ``size`` of the next finer one."""
        time = coarse.shape[:2]
        third, fourth = self.motion[0](coarse).flatten(0, 1), self.motion[1](coarsest).flatten(0, 1)
        path = self.fuse[3](self.reduce[3](fourth), third.shape[-2:])
        path = self.motion[2](path.unflatten(0, time)).flatten(0, 1)
        path = self.fuse[2](path + self.fuse[2].skip(self.reduce[2](third)), size)  # type: ignore[operator, union-attr]
        return self.motion[3](path.unflatten(0, time))

    def to_depth(
        self,
        path: Float[Tensor, "frames features height2 width2"],
        fine: Float[Tensor, "frames features height2 width2"],
        finest: Float[Tensor, "frames features height4 width4"],
        grid: tuple[int, int],
    ) -> Float[Tensor, "frames height width"]:
        """The depth of each frame at the size of the encoder's input."""
        parts = zip(*(maps.split(_FRAMES_AT_ONCE) for maps in (path, fine, finest)), strict=True)
        return torch.cat([self._finish(a, b, c, grid) for a, b, c in parts])

    def _finish(self, path: Tensor, fine: Tensor, finest: Tensor, grid: tuple[int, int]) -> Tensor:
        path = self.fuse[1](path + fine, finest.shape[-2:])
        path = self.fuse[0](path + finest, (2 * finest.shape[-2], 2 * finest.shape[-1]))
        path = _enlarge(self.shrink(path), (grid[0] * self.patch_size, grid[1] * self.patch_size))
        with torch.autocast(path.device.type, enabled=False):  # depth itself is never in half precision
            hidden, depth = self.output
            return depth(hidden(path.float()).relu()).relu().squeeze(1)


def _enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=True)
