"""A small dataset decoded once into memory, so that training never waits for data."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Self

import numpy as np
import torch
from torch import Tensor

from fathom.data.batch import Batch
from fathom.data.collate import depth_key
from fathom.data.dataset import LeRobotDataset
from fathom.data.features import camera_name
from fathom.data.resize import resize

_CHUNK = 256


@dataclass(frozen=True)
class MemoryDataset:
    """All frames of an opened dataset: colour as uint8, depth as the video's 12-bit codes or float16 metres.

    Attributes:
        images: per camera uint8 (frames, 3, H, W).
        depth: uint16 codes or float16 / float32 metres (frames, 1, h, w).
        depth_table: metres of each code, where ``depth`` holds codes.
    """

    dataset: LeRobotDataset
    images: dict[str, Tensor]
    depth: Tensor | None
    depth_table: Tensor | None

    @classmethod
    def load(
        cls,
        dataset: LeRobotDataset,
        *,
        image_size: int | None = None,
        depth_size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Self:
        """Decodes every picture that ``dataset`` was opened with, in order, one thread per feature.

        Args:
            image_size: side of the square to which colour is resized (antialiased); None leaves it.
            depth_size: the same for depth, which is then kept as float16 metres (within 1 mm up to 2 m).
            progress: called with the number of pictures done since the last call.
        """
        features = {name: dataset.info.features[name] for name in dataset.pictures}
        depth = depth_key([name for name, feature in features.items() if feature.kind == "depth"])
        cameras = [name for name, feature in features.items() if feature.kind == "rgb"]
        wanted = dict.fromkeys(cameras, image_size) | ({depth: depth_size} if depth else {})
        lock = Lock()

        def tell(done: int) -> None:
            if progress is not None:
                with lock:
                    progress(done)

        with ThreadPoolExecutor(max_workers=max(1, len(wanted))) as pool:
            jobs = {name: pool.submit(_decode_all, dataset, name, size, tell) for name, size in wanted.items()}
            pictures = {name: job.result() for name, job in jobs.items()}
        table = None
        if depth and pictures[depth].dtype == torch.uint16:
            table = torch.from_numpy(features[depth].depth_codec.table)
        return cls(dataset, {camera_name(name): pictures[name] for name in cameras}, pictures.get(depth or ""), table)

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Sequence[int] | np.ndarray | Tensor) -> Batch:
        """The batch of these frames (0 … len − 1), the same as collating them from the dataset."""
        frames = np.asarray(indices, dtype=np.int64)
        chosen = torch.from_numpy(frames)
        images = {name: pictures[chosen] for name, pictures in self.images.items()}
        return self.dataset.batch_around(frames, images, self._metres(chosen))

    def _metres(self, chosen: Tensor) -> Tensor | None:
        if self.depth is None:
            return None
        if self.depth_table is not None:
            return self.depth_table[self.depth.view(torch.int16)[chosen].int()]
        return self.depth[chosen].float()


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
    if feature.kind == "depth" and feature.dtype == "video" and size is None:
        return torch.from_numpy(np.stack([dataset.raw_picture(name, i) for i in frames]))[:, None]
    pictures = torch.from_numpy(np.stack([dataset.picture(name, i) for i in frames]))
    if size is None:
        return pictures
    small = resize(pictures, size)
    return small.half() if feature.kind == "depth" else small
