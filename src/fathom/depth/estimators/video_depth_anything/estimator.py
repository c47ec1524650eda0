"""Video-Depth-Anything as an estimator: episodes in, depth out, no frame seen twice."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from fathom.depth.depth_map import DepthKind, DepthVideo
from fathom.depth.estimators.video_depth_anything import windows
from fathom.depth.estimators.video_depth_anything.config import SIZES
from fathom.depth.estimators.video_depth_anything.head import FrameFeatures
from fathom.depth.estimators.video_depth_anything.model import VideoDepthModel
from fathom.depth.estimators.video_depth_anything.weights import find_checkpoint, load_model, read_tensors, size_of
from fathom.errors import UserError
from fathom.weights import fingerprint

INPUT_SIZE = 518
"""Pixels of the shorter side that the released models were trained with."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WIDEST = 1.777  # aspect ratio from which the official procedure makes the input smaller (beyond 1.78)
_FRAMES_AT_ONCE = 8

Array = np.ndarray


class VideoDepthAnything:
    """Depth of videos, consistent over time.

    It gives what the official procedure gives (:mod:`~fathom.depth.estimators.video_depth_anything.windows`), for less
    work: a frame that several windows show, as key frame or in place of frames behind the end, is encoded once,
    and the costly last steps are left out at places that nobody reads. Shortening the last window would save a little
    more, but its frames attend to all others, so that the depth would change.

    Attributes:
        kind: of the depth, by how the weights were trained.
    """

    def __init__(
        self,
        model: VideoDepthModel,
        kind: DepthKind,
        *,
        input_size: int = INPUT_SIZE,
        device: torch.device | str = "cpu",
        provenance: dict[str, Any] | None = None,
    ) -> None:
        self._patch = patch = model.config.encoder.patch_size
        if input_size < patch or input_size % patch:
            raise UserError(f"the input size is {input_size}: it must be a multiple of {patch}, such as {INPUT_SIZE}")
        self.kind = kind
        self.input_size = input_size
        self._device = torch.device(device)
        self._model = model.to(self._device)
        self._provenance = {"estimator": "video-depth-anything", "input_size": input_size, **(provenance or {})}
        # A GPU is filled by several windows at once where frames are small.
        self._windows_at_once = 4 if self._device.type == "cuda" else 1

    @classmethod
    def open(
        cls, name: str, kind: DepthKind, source: str | Path, *, input_size: int, device: torch.device | str
    ) -> "VideoDepthAnything":
        """With the weights in an official checkpoint, whose size it tells by itself.

        Args:
            name: of the estimator, for the provenance.
            kind: the released relative and metric weights have the same shapes, so it has to be said.
            source: a ``.pth`` or ``.safetensors`` file, a folder with one, or a hub id.

        Raises:
            UserError: there is none, it is damaged or of another size, or its file name says the other kind.
        """
        path = find_checkpoint(source)
        _check_kind(path, kind)
        tensors = read_tensors(path)
        size = size_of(tensors, path)
        model = load_model(SIZES[size], tensors, path)
        provenance = {"estimator": name, "size": size, "weights": fingerprint(model)}
        return cls(model, kind, input_size=input_size, device=device, provenance=provenance)

    def estimate(self, frames: UInt8[Array, "frames height width 3"], *, episode: int | None = None) -> DepthVideo:
        """The depth of one episode."""
        return self.estimate_many([frames])[0]

    @torch.inference_mode()
    def estimate_many(self, episodes: Sequence[UInt8[Array, "frames height width 3"]]) -> list[DepthVideo]:
        """The depth of several episodes: each as if it were alone, in shared batches."""
        for frames in episodes:
            if len(frames) == 0:
                raise UserError("an episode has no frames: there is no depth to estimate")
        if len({frames.shape[1:] for frames in episodes}) > 1:
            return [self.estimate(frames) for frames in episodes]
        depths = self._depths(episodes)
        videos = []
        for frames in episodes:
            pieces = [next(depths) for _ in windows.lengths(len(frames))]
            values = windows.join(pieces, len(frames), align=self.kind == "relative_inverse")
            known = np.isfinite(values)
            if self.kind == "metric":
                known &= values > 0
            videos.append(DepthVideo(values, self.kind, known, self._provenance))
        return videos

    def _depths(self, episodes: Sequence[Array]) -> Iterator[Float[Array, "places height width"]]:
        """The depth at the places that are read of each window, window by window through all episodes."""
        rows, read, start = [], [], 0
        for frames in episodes:
            rows.append(windows.layout(len(frames)) + start)
            read.append(np.arange(windows.LENGTH) < np.array(windows.lengths(len(frames)))[:, None])
            start += len(frames)
        every, places = np.concatenate(rows), np.concatenate(read)
        seen = _Seen(self, episodes)
        for first in range(0, len(every), self._windows_at_once):
            now = slice(first, first + self._windows_at_once)
            with self._precision():
                depth = self._model.depth(*seen.features(every[now]), torch.from_numpy(places[now]).to(self._device))
            depth = F.interpolate(
                depth[:, None].float(), episodes[0].shape[1:3], mode="bilinear", align_corners=True
            ).squeeze(1)
            yield from np.split(depth.cpu().numpy(), np.cumsum(places[now].sum(1))[:-1])

    def see(self, frames: UInt8[Array, "frames height width 3"]) -> FrameFeatures:
        """What the model sees in each frame by itself."""
        with self._precision():
            return FrameFeatures.join(
                *(
                    self._model.see(normalized(torch.from_numpy(part).to(self._device), self.input_size, self._patch))
                    for part in np.split(frames, range(_FRAMES_AT_ONCE, len(frames), _FRAMES_AT_ONCE))
                )
            )

    def _precision(self) -> torch.autocast:
        """Half precision on a GPU, as in the official procedure; single on a CPU."""
        on_gpu = self._device.type == "cuda"
        return torch.autocast(self._device.type, torch.float16 if on_gpu else torch.bfloat16, enabled=on_gpu)


class _Seen:
    """The features of the frames of the windows at hand: those of the last ones are kept, as key frames come again."""

    def __init__(self, estimator: VideoDepthAnything, episodes: Sequence[Array]) -> None:
        self._estimator = estimator
        self._episodes = episodes
        self._ends = np.cumsum([len(frames) for frames in episodes])
        self._numbers = np.array([], int)
        self._features: FrameFeatures | None = None

    def features(self, rows: Int[Array, "windows time"]) -> tuple[FrameFeatures, Int[Tensor, "windows time"]]:
        """The features of all frames in ``rows`` (numbered through all episodes), and where in them each is."""
        wanted = np.unique(rows)
        kept = np.flatnonzero(np.isin(self._numbers, wanted))
        new = np.setdiff1d(wanted, self._numbers)
        device = self._estimator._device
        parts = [self._features.select(torch.from_numpy(kept).to(device))] if self._features and len(kept) else []
        if len(new):
            parts.append(self._estimator.see(np.stack([self._frame(number) for number in new])))
        self._features = FrameFeatures.join(*parts)
        self._numbers = np.concatenate([self._numbers[kept], new])
        order = np.argsort(self._numbers)
        where = order[np.searchsorted(self._numbers, rows, sorter=order)]
        return self._features, torch.from_numpy(where).to(device)

    def _frame(self, number: int) -> UInt8[Array, "height width 3"]:
        episode = int(np.searchsorted(self._ends, number, side="right"))
        return self._episodes[episode][number - self._ends[episode]]


def normalized(
    frames: UInt8[Tensor, "frames height width 3"], input_size: int, patch: int = 14
) -> Float[Tensor, "frames 3 input_height input_width"]:
    """Frames as the model reads them: bicubic, the shorter side at least ``input_size`` pixels."""
    pictures = frames.permute(0, 3, 1, 2).float() / 255
    shape = input_shape(frames.shape[1], frames.shape[2], input_size, patch)
    pictures = F.interpolate(pictures, shape, mode="bicubic")
    mean, std = (torch.tensor(values, device=frames.device).view(3, 1, 1) for values in (_MEAN, _STD))
    return (pictures - mean) / std


def input_shape(height: int, width: int, input_size: int, patch: int = 14) -> tuple[int, int]:
    """Height and width of the model's input: multiples of the patch, of about the frames' aspect ratio."""
    ratio = max(height, width) / min(height, width)
    if ratio > 1.78:  # very wide pictures become smaller, to fit into memory
        input_size = round(int(input_size * _WIDEST / ratio) / patch) * patch
    scale = input_size / min(height, width)

    def fit(pixels: int) -> int:
        size = round(scale * pixels / patch) * patch
        return size if size >= input_size else -int(-scale * pixels // patch) * patch

    return fit(height), fit(width)


def _check_kind(path: Path, kind: DepthKind) -> None:
    """The official files say in their names which kind they are; believed only to refuse the wrong one."""
    if found := re.fullmatch(r"(metric_)?video_depth_anything_vit\w\.\w+", path.name):
        named: DepthKind = "metric" if found[1] else "relative_inverse"
        if named != kind:
            other = "metric-video-depth-anything" if found[1] else "video-depth-anything"
            raise UserError(f"{path.name} has weights for {named} depth, not {kind}: take the estimator {other}")
