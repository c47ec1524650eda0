"""The long-video procedure of the public Video-Depth-Anything code, over our model's weights.

Every window of 32 frames goes through all of the network, with the frames that stand in for those behind the end of
the video and the key frames of the window before it; a last window that the result does not need is computed too.
Frames are resized one by one, once for each window that shows them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fathom.depth.estimators.video_depth_anything import VideoDepthModel
from fathom.depth.estimators.video_depth_anything.estimator import normalized

WINDOW, OVERLAP, FADE = 32, 10, 8
KEY_FRAMES = [0, 12, *range(24, 32)]
MICRO_BATCH = 4

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def eager(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What that code computes where it has no xformers, as on a CPU."""
    return (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1) @ value


class OfficialVideoDepthAnything:
    """The official procedure.

    Args:
        model: whose weights are used.
        attention: :func:`eager`, or torch's own in place of xformers.
        metric: whether windows are joined without a scale and a shift.
    """

    def __init__(
        self, model: VideoDepthModel, input_size: int, attention: Attention = eager, *, metric: bool = False
    ) -> None:
        self.model: Any = model
        self.input_size, self.attention, self.metric = input_size, attention, metric
        self.device = next(model.parameters()).device

    @torch.no_grad()
    def infer(self, frames: np.ndarray) -> np.ndarray:
        """(frames, height, width) depth of (frames, height, width, 3) pictures."""
        step = WINDOW - OVERLAP
        behind = (step - len(frames) % step) % step + OVERLAP
        padded = [*frames, *[frames[-1]] * behind]
        depth: list[np.ndarray] = []
        before = None
        for start in range(0, len(frames), step):
            pictures = [self._prepare(frame) for frame in padded[start : start + WINDOW]]
            window = torch.cat(pictures)[None].to(self.device)
            if before is not None:
                window[:, :OVERLAP] = before[:, KEY_FRAMES]
            half = self.device.type == "cuda"
            with torch.autocast(self.device.type, torch.float16 if half else torch.bfloat16, enabled=half):
                found = self.forward(window)[0].float()
            found = F.interpolate(found[:, None], frames.shape[1:3], mode="bilinear", align_corners=True)
            depth += list(found[:, 0].cpu().numpy())
            before = window
        return np.stack(self._joined(depth)[: len(frames)])

    def _prepare(self, frame: np.ndarray) -> Tensor:
        return normalized(torch.from_numpy(frame)[None], self.input_size)

    def _joined(self, depth: list[np.ndarray]) -> list[np.ndarray]:
        aligned = OVERLAP - FADE
        joined = depth[:WINDOW]
        reference = [depth[key] for key in KEY_FRAMES[:aligned]]
        for start in range(WINDOW, len(depth), WINDOW):
            fit = (1.0, 0.0) if self.metric else _fit(np.stack(depth[start : start + aligned]), np.stack(reference))
            fitted = [np.maximum(one * fit[0] + fit[1], 0) for one in depth[start : start + WINDOW]]
            for place, new in enumerate(fitted[aligned:OVERLAP]):
                weight = place / (FADE - 1)
                joined[place - FADE] = joined[place - FADE] * (1 - weight) + new * weight
            joined += fitted[OVERLAP:]
            reference = [reference[0], *(fitted[key] for key in KEY_FRAMES[1:aligned])]
        return joined

    def forward(self, window: Tensor) -> Tensor:
        """(1, time, height, width) depth of (1, time, 3, height, width) normalised frames."""
        time, grid = window.shape[1], (window.shape[-2] // 14, window.shape[-1] // 14)
        head = self.model.head
        maps = [
            resize(project(tokens.transpose(1, 2).unflatten(2, grid)))
            for tokens, project, resize in zip(self._encode(window[0], grid), head.project, head.resize, strict=True)
        ]
        maps[2], maps[3] = self._motion(0, maps[2], time), self._motion(1, maps[3], time)
        reduced = [reduce(layer) for reduce, layer in zip(head.reduce, maps, strict=True)]
        path = self._fuse(3, reduced[3], None, reduced[2].shape[-2:])
        path = self._motion(2, path, time)
        path = self._fuse(2, path, reduced[2], reduced[1].shape[-2:])
        path = self._motion(3, path, time)
        size = MICRO_BATCH if time % MICRO_BATCH == 0 else time
        parts = zip(*(x.split(size) for x in (path, reduced[1], reduced[0])), strict=True)
        return torch.cat([self._finish(*part, grid) for part in parts])[None, :, 0]

    def _finish(self, path: Tensor, fine: Tensor, finest: Tensor, grid: tuple[int, int]) -> Tensor:
        head = self.model.head
        path = self._fuse(1, path, fine, finest.shape[-2:])
        path = self._fuse(0, path, finest, (finest.shape[-2] * 2, finest.shape[-1] * 2))
        path = _enlarge(head.shrink(path), (grid[0] * 14, grid[1] * 14))
        with torch.autocast(path.device.type, enabled=False):
            return head.output[1](head.output[0](path.float()).relu()).relu()

    def _encode(self, pixels: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        encoder, config = self.model.encoder, self.model.config.encoder
        patches = encoder.embeddings.patch_embeddings.projection(pixels).flatten(2).transpose(1, 2)
        hidden = torch.cat([encoder.embeddings.cls_token.expand(len(patches), -1, -1), patches], 1)
        hidden = hidden + self._positions(grid).to(hidden.dtype)
        layers = []
        for layer in encoder.encoder.layer:
            normed, (*inward, outward) = layer.norm1(hidden), _projections(layer.attention)
            query, key, value = (project(normed).unflatten(2, (config.heads, -1)).transpose(1, 2) for project in inward)
            read = outward(self.attention(query, key, value).transpose(1, 2).flatten(2))
            hidden = hidden + layer.layer_scale1.lambda1 * read
            mlp = layer.mlp.fc2(F.gelu(layer.mlp.fc1(layer.norm2(hidden))))
            hidden = hidden + layer.layer_scale2.lambda1 * mlp
            layers.append(hidden)
        return [encoder.layernorm(layers[i])[:, 1:] for i in config.intermediate_layers]

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        table = self.model.encoder.embeddings.position_embeddings.float()
        side = math.isqrt(table.shape[1] - 1)
        if grid == (side, side):
            return table
        square = table[0, 1:].T.reshape(1, -1, side, side)
        scale = tuple((patches + 0.1) / side for patches in grid)
        large = F.interpolate(square, scale_factor=scale, mode="bicubic")
        return torch.cat([table[:, :1], large.flatten(2).transpose(1, 2)], 1)

    def _motion(self, index: int, maps: Tensor, time: int) -> Tensor:
        module = self.model.head.motion[index]
        height, width = maps.shape[-2:]
        tokens = module.project_in(module.norm(maps).flatten(2).transpose(1, 2))  # time, places, channels
        for attention in module.attention:
            told = attention.norm(tokens).transpose(0, 1) + attention.positions[:, :time].to(tokens.dtype)
            query, key, value = (
                project(told).unflatten(2, (8, -1)).transpose(1, 2)
                for project in (attention.query, attention.key, attention.value)
            )
            read = self.attention(query, key, value).transpose(1, 2).flatten(2)
            tokens = tokens + attention.out(read).transpose(0, 1)
        value, gate = module.mlp_in(module.mlp_norm(tokens)).chunk(2, -1)
        tokens = module.project_out(tokens + module.mlp_out(value * F.gelu(gate)))
        return maps + tokens.transpose(1, 2).unflatten(2, (height, width))

    def _fuse(self, index: int, maps: Tensor, skip: Tensor | None, size: Sequence[int]) -> Tensor:
        fusion = self.model.head.fuse[index]
        if skip is not None:
            maps = maps + _residual(fusion.skip, skip)
        return fusion.out(_enlarge(_residual(fusion.sum, maps), size))


def _projections(attention: Any) -> tuple[Any, Any, Any, Any]:
    """Query, key, value and output, under the names of newer and of older transformers."""
    if hasattr(attention, "q_proj"):
        return attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
    inner = attention.attention
    return inner.query, inner.key, inner.value, attention.output.dense


def _residual(unit: Any, maps: Tensor) -> Tensor:
    return maps + unit.conv2(unit.conv1(maps.relu()).relu())


def _enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=True)


def _fit(depth: np.ndarray, target: np.ndarray) -> tuple[np.float32, np.float32]:
    """Least squares by the normal equations in single precision, as there."""
    count, total, squares = np.float32(depth.size), depth.sum(), (depth * depth).sum()
    product, sum_of_target = (depth * target).sum(), target.sum()
    determinant = squares * count - total * total
    if determinant == 0:
        return np.float32(1), np.float32(0)
    scale = (count * product - total * sum_of_target) / determinant
    return scale, (squares * sum_of_target - total * product) / determinant
