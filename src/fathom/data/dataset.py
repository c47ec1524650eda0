"""Reading a LeRobot v3.0 dataset, frame by frame, with a window of actions."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from fathom.data.batch import Batch
from fathom.data.features import ACTION, MAIN_DEPTH, STATE, DatasetInfo, camera_name
from fathom.data.frames import Column, ImageColumns, read_columns
from fathom.data.metadata import Episode, Stats, read_episodes, read_stats, read_tasks
from fathom.data.selection import check_reach, choose_features, select_episodes, wanted_depth
from fathom.data.video import VideoReaders
from fathom.errors import UserError

Sample = dict[str, Any]
Indices = NDArray[np.int64]


def open_dataset(
    path: str | Path,
    *,
    cameras: Sequence[str] | None = None,
    horizon: int = 1,
    depth: bool | Sequence[str] = False,
    labels: Sequence[str] = (),
    future: int = 0,
    split: str | None = None,
    episodes: Sequence[int] | None = None,
) -> "LeRobotDataset":
    """Opens the dataset in folder ``path``.

    Args:
        cameras: the colour cameras to decode, by their short names (``main``); all of them if None.
        horizon: length of the window of actions.
        depth: the depth features to decode, as ``main_depth``; True means all there are.
        labels: integer images to decode, as ``main_segmentation``.
        future: also read the depth this many frames ahead; 0 for the present alone.
        split: only the episodes of this split of ``info.json``.
        episodes: only these episodes.

    Raises:
        UserError: the dataset is missing, damaged or of another version, lacks what was asked for, or has no episode
            that goes as far as ``horizon`` or ``future``.
    """
    root = Path(path)
    info = DatasetInfo.load(root)
    if horizon < 1:
        raise UserError(f"horizon = {horizon}: the window of actions needs at least one step.")
    if future < 0 or (future and not depth):
        raise UserError(
            f"future = {future}: depth is read that many frames ahead, so it is 0 or more, and 0 without depth."
        )
    chosen = [
        *choose_features(root, info, "camera", info.keys("rgb"), cameras),
        *choose_features(root, info, "depth feature", info.keys("depth"), wanted_depth(root, info, depth)),
        *choose_features(root, info, "label feature", info.keys("labels"), labels),
    ]
    selected = select_episodes(root, info, read_episodes(root, info), split, episodes)
    check_reach(root, selected, horizon, future)
    return LeRobotDataset(root, info, selected, chosen, horizon, future)


class LeRobotDataset(Dataset[Sample]):
    """A map-style dataset; ``dataset[i]`` is a dict keyed like the features.

    Per frame: every vector feature as stored, (S,); ``action`` (horizon, A) with ``action_is_pad`` (horizon,), the last
    action repeated past the end of the episode; colour uint8 (3, H, W); depth float32 (1, H, W) in metres; labels int32
    (1, H, W); ``task`` the instruction; and the scalars ``timestamp``, ``frame_index``, ``episode_index``, ``index``
    (in the whole dataset, whatever was selected) and ``task_index``. With ``future`` also ``future_depth`` (1, H, W)
    and the scalar ``future_is_pad``, as in :class:`~fathom.data.batch.Batch`.

    Attributes:
        columns: everything that is no picture, (frames, …), in memory.
        episodes: the selected episodes; their frames follow each other in this dataset.
        pictures: the names of the picture features that are decoded.
        horizon: length of the window of actions.
        future: how many frames ahead depth is read too; 0 for the present alone.
        codes: the feature with a depth tokenizer's codes, see :meth:`with_codes`.
    """

    codes: str | None = None

    def __init__(
        self,
        root: Path,
        info: DatasetInfo,
        episodes: Sequence[Episode],
        pictures: Sequence[str],
        horizon: int,
        future: int,
    ) -> None:
        self.root = root
        self.info = info
        self.episodes = list(episodes)
        self.tasks = read_tasks(root)
        self.pictures = list(pictures)
        self.horizon = horizon
        self.future = future
        self.columns: dict[str, Column] = read_columns(self.episodes, info.features)
        lengths = np.array([episode.length for episode in self.episodes], dtype=np.int64)
        self._ends = np.cumsum(lengths)
        self._episode_of = np.repeat(np.arange(len(lengths)), lengths)
        features = {name: info.features[name] for name in pictures}
        self._images = {name: f for name, f in features.items() if f.dtype == "image"}
        self._codecs = {name: f.depth_codec for name, f in features.items() if f.kind == "depth" and f.dtype == "video"}
        self._readers = VideoReaders()
        self._image_columns = ImageColumns(self._images)

    @property
    def fps(self) -> float:
        return self.info.fps

    @cached_property
    def stats(self) -> Stats:
        """Statistics of the whole dataset, as stored with it."""
        return read_stats(self.root)

    @property
    def cameras(self) -> list[str]:
        """The colour features that are decoded."""
        return [name for name in self.pictures if self.info.features[name].kind == "rgb"]

    @property
    def depth_feature(self) -> str | None:
        """The depth feature that a policy learns: that of the camera ``main``, or the only one that is decoded.

        Raises:
            UserError: several are decoded, and none is ``main_depth``.
        """
        decoded = [name for name in self.pictures if self.info.features[name].kind == "depth"]
        if MAIN_DEPTH in decoded or not decoded:
            return MAIN_DEPTH if decoded else None
        if len(decoded) > 1:
            names = ", ".join(camera_name(name) for name in decoded)
            raise UserError(
                f"depth: {names} are read, but a policy learns one; open the dataset with depth=[…] of one."
            )
        return decoded[0]

    def __len__(self) -> int:
        return len(self._episode_of)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> Sample:
        if not -len(self) <= i < len(self):
            raise IndexError(f"frame {i} of {len(self)}")
        i %= len(self)
        sample: Sample = {name: _value(column, i) for name, column in self.columns.items() if name != ACTION}
        if ACTION in self.columns:
            rows, is_pad = self.window(np.array([i]))
            sample[ACTION] = torch.from_numpy(self.columns[ACTION][rows[0]])
            sample["action_is_pad"] = torch.from_numpy(is_pad[0])
        sample["task"] = self.tasks[int(sample["task_index"])]
        sample.update({name: torch.from_numpy(self.picture(name, i)) for name in self.pictures})
        if self.future and self.depth_feature:
            ahead, past_end = self.ahead(np.array([i]))
            sample["future_depth"] = torch.from_numpy(self.picture(self.depth_feature, int(ahead[0])))
            sample["future_is_pad"] = torch.from_numpy(past_end)[0]
        return sample

    def batch(self, frames: Sequence[int]) -> Batch:
        """The samples of these frames, stacked; cameras go by their short names, as ``main``.

        Raises:
            UserError: see :meth:`batch_around` and :attr:`depth_feature`.
        """
        chosen = np.asarray(frames, dtype=np.int64)
        name = self.depth_feature
        batch = self.batch_around(chosen, {camera_name(camera): self._stack(camera, chosen) for camera in self.cameras})
        if name is None:
            return batch
        if not self.future:
            return replace(batch, depth=self._stack(name, chosen))
        # Each picture is decoded once, and in the order of the video, where a frame and the one ahead are neighbours.
        needed, places = np.unique(np.stack([chosen, self.ahead(chosen)[0]]), return_inverse=True)
        depth, future_depth = self._stack(name, needed)[torch.from_numpy(places.reshape(2, -1))]
        return replace(batch, depth=depth, future_depth=future_depth)

    def batch_around(self, frames: Indices, images: dict[str, Tensor]) -> Batch:
        """The batch of ``frames`` (N,) with pictures from elsewhere, and without depth.

        Raises:
            UserError: the dataset has no state or no action.
        """
        for name in (STATE, ACTION):
            if name not in self.columns:
                there = ", ".join(self.columns)
                raise UserError(f"{self.root}: there is no feature {name!r}, which a policy needs; there is: {there}.")
        rows, is_pad = self.window(frames)
        return Batch(
            images=images,
            state=torch.from_numpy(self.columns[STATE][frames]),
            instruction=[self.tasks[task] for task in self.columns["task_index"][frames]],
            actions=torch.from_numpy(self.columns[ACTION][rows]),
            action_is_pad=torch.from_numpy(is_pad),
            index=torch.from_numpy(self.columns["index"][frames]),
            future_is_pad=torch.from_numpy(self.ahead(frames)[1]) if self.future else None,
            depth_codes=self._codes(frames),
            future_depth_codes=self._codes(self.ahead(frames)[0]) if self.future else None,
        )

    def with_codes(self, name: str) -> Self:
        """The same dataset with the depth codes of a feature in place of depth, which is not decoded."""
        coded = self.twin()
        coded.codes = name
        coded.pictures = [name for name in self.pictures if self.info.features[name].kind != "depth"]
        return coded

    def twin(self) -> Self:
        """The same dataset with decoders of its own, for another thread."""
        twin = copy.copy(self)
        twin._readers, twin._image_columns = VideoReaders(), ImageColumns(self._images)
        return twin

    def window(self, frames: Indices) -> tuple[Indices, NDArray[np.bool_]]:
        """Which rows the action windows of ``frames`` (N,) hold.

        Returns:
            rows (N, horizon) of ``columns``, and is_pad (N, horizon), True past the end of the episode.
        """
        return self._reach(frames, np.arange(self.horizon))

    def ahead(self, frames: Indices) -> tuple[Indices, NDArray[np.bool_]]:
        """The frames ``future`` after ``frames`` (N,).

        Returns:
            rows (N,), the last of the episode where it ends before, and is_pad (N,), True there.
        """
        rows, is_pad = self._reach(frames, np.array([self.future]))
        return rows[:, 0], is_pad[:, 0]

    def _reach(self, frames: Indices, steps: Indices) -> tuple[Indices, NDArray[np.bool_]]:
        """The frames (N, K) that lie ``steps`` (K,) after ``frames`` (N,), held back at the end of the episode."""
        rows = frames[:, None] + steps
        ends = self._ends[self._episode_of[frames]][:, None]
        return np.minimum(rows, ends - 1), rows >= ends

    def picture(self, name: str, i: int) -> NDArray[Any]:
        """Frame ``i`` of a picture feature as a sample has it: channels first, depth in metres."""
        if name in self._images:
            episode = self.episodes[self._episode_of[i]]
            return self._image_columns.get(name, episode.data, int(self.columns["index"][i]))
        picture = self.raw_picture(name, i)
        return self._codecs[name].decode(picture)[None] if name in self._codecs else picture.transpose(2, 0, 1).copy()

    def raw_picture(self, name: str, i: int) -> NDArray[Any]:
        """Frame ``i`` of a video feature as its codec has it: uint8 (H, W, 3) or depth codes uint16 (H, W)."""
        path, begin = self.episodes[self._episode_of[i]].videos[name]
        pictures = "gray12le" if name in self._codecs else "rgb24"
        return self._readers.get(path, pictures, self.fps).picture_at(begin + float(self.columns["timestamp"][i]))

    def _codes(self, frames: Indices) -> Tensor | None:
        return None if self.codes is None else torch.from_numpy(self.columns[self.codes][frames]).long()

    def _stack(self, name: str, frames: Indices) -> Tensor:
        """The pictures of ``frames``, written straight to where they stay."""
        first = self.picture(name, int(frames[0]))
        stack = np.empty((len(frames), *first.shape), first.dtype)
        stack[0] = first
        for place, frame in enumerate(frames[1:].tolist(), start=1):
            if name in self._images:
                stack[place] = self.picture(name, frame)
            elif name in self._codecs:
                self._codecs[name].decode(self.raw_picture(name, frame), out=stack[place, 0])
            else:
                stack[place] = self.raw_picture(name, frame).transpose(2, 0, 1)
        return torch.from_numpy(stack)


def _value(column: Column, i: int) -> Any:
    if isinstance(column, list):
        return column[i]
    return torch.from_numpy(column[i : i + 1].copy())[0]


def known_split(path: str | Path, split: str) -> str | None:
    """``split`` if the dataset has one of that name, else ``None``, which means all of it."""
    return split if split in DatasetInfo.load(Path(path)).splits else None
