"""A small dataset decoded once into memory, so that training never waits for data."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fathom.data.batch import Batch
from fathom.data.dataset import Indices, LeRobotDataset
from fathom.data.features import camera_name
from fathom.data.resize import resize

_CHUNK = 256


@dataclass(frozen=True)
class MemoryDataset:
    """All frames of an opened dataset: colour as uint8, depth as the video's 12-bit codes or as metres.

    Attributes:
        images: per camera uint8 (frames, 3, H, W).
        depth: the video's codes uint16 or metres float32 (frames, 1, h, w).
        depth_table: metres of each of the video's codes, where ``depth`` holds those.
        depth_codes: a depth tokenizer's codes in place of depth, see :meth:`with_codes`.
    """

    dataset: LeRobotDataset
    images: dict[str, Tensor]
    depth: Tensor | None
    depth_table: Tensor | None
    depth_codes: Int[Tensor, "frames depth_tokens"] | None = None

    @classmethod
    def load(
        cls,
        dataset: LeRobotDataset,
        *,
        image_size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Self:
        """Decodes every picture that ``dataset`` was opened with, in order, one thread per feature.

        Args:
            image_size: side of the square to which colour is resized (antialiased); None leaves it.
            progress: called with the number of pictures done since the last call.
        """
        depth = dataset.depth_feature
        wanted = dict.fromkeys(dataset.cameras, image_size) | ({depth: None} if depth else {})
        lock = Lock()

        def tell(done: int) -> None:
            if progress is not None:
                with lock:
                    progress(done)

        with ThreadPoolExecutor(max_workers=max(1, len(wanted))) as pool:
            jobs = {name: pool.submit(_decode_all, dataset, name, size, tell) for name, size in wanted.items()}
            pictures = {name: job.result() for name, job in jobs.items()}
        images = {camera_name(name): pictures[name] for name in dataset.cameras}
        if depth is None:
            return cls(dataset, images, None, None)
        coded = pictures[depth].dtype == torch.uint16
        table = torch.from_numpy(dataset.info.features[depth].depth_codec.table) if coded else None
        return cls(dataset, images, pictures[depth], table)

    def with_codes(self, codes: Int[Tensor, "frames depth_tokens"]) -> Self:
        """The same with a depth tokenizer's codes of every frame; the depth itself is let go."""
        return replace(self, depth=None, depth_table=None, depth_codes=codes)

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Sequence[int] | np.ndarray | Tensor) -> Batch:
        """The batch of these frames (0 … len − 1): that of the dataset, or one with codes in place of depth."""
        frames = np.asarray(indices, dtype=np.int64)
        images = {name: pictures[torch.from_numpy(frames)] for name, pictures in self.images.items()}
        batch = replace(self.dataset.batch_around(frames, images), **self._depth(frames))
        if not self.dataset.future:
            return batch
        ahead, _ = self.dataset.ahead(frames)
        return replace(batch, **{f"future_{name}": value for name, value in self._depth(ahead).items()})

    def _depth(self, frames: Indices) -> dict[str, Any]:
        """What a batch says of the depth of ``frames`` (N,)."""
        chosen = torch.from_numpy(frames)
        if self.depth_codes is not None:
            return {"depth_codes": self.depth_codes[chosen]}
        if self.depth is None:
            return {}
        if self.depth_table is None:
            return {"depth": self.depth[chosen]}
        return {"depth": self.depth_table[self.depth.view(torch.int16)[chosen].int()]}


def _decode_all(dataset: LeRobotDataset, name: str, size: int | None, tell: Callable[[int], None]) -> Tensor:
    """All pictures of a feature, resized piece by piece: the originals may not fit."""
    dataset, pictures = dataset.twin(), torch.empty(0)
    for begin in range(0, len(dataset), _CHUNK):
        frames = range(begin, min(begin + _CHUNK, len(dataset)))
        piece = _decode_some(dataset, name, size, frames)
        if begin == 0:
            pictures = torch.empty((len(dataset), *piece.shape[1:]), dtype=piece.dtype)
        pictures[begin : begin + len(frames)] = piece
        tell(len(frames))
    return pictures


def _decode_some(dataset: LeRobotDataset, name: str, size: int | None, frames: Sequence[int]) -> Tensor:
    feature = dataset.info.features[name]
    if feature.kind == "depth" and feature.dtype == "video":
        return torch.from_numpy(np.stack([dataset.raw_picture(name, i) for i in frames]))[:, None]
    pictures = torch.from_numpy(np.stack([dataset.picture(name, i) for i in frames]))
    return pictures if size is None else resize(pictures, size)
