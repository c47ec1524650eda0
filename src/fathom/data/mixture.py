"""Several datasets as one: drawn by weights, each normalised by its own statistics.

A policy has one :class:`~fathom.data.normalization.Normalization`, but a mixture has one for each of its datasets: the
same motion is other numbers on another robot. So state and actions leave a mixture normalised already, the policy in
training gets a normalisation that changes nothing (:attr:`Mixture.normalization`), and the trained policy is saved with
that of the robot it is to run on (:meth:`Mixture.normalization_of`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fathom.config import parse_config, read_json
from fathom.data.batch import Batch
from fathom.data.dataset import LeRobotDataset, open_dataset
from fathom.data.loader import DecodedBatches
from fathom.data.mixture_config import MixtureConfig, MixturePart, check_parts
from fathom.data.mixture_order import MixtureOrder, Place
from fathom.data.normalization import Normalization, Scaling
from fathom.data.resize import resize
from fathom.errors import UserError


def open_mixture(config: MixtureConfig | str | Path) -> "Mixture":
    """Opens the datasets of a mixture, given as a value or as the path of a JSON file with its fields.

    Raises:
        UserError: a dataset cannot be opened, a weight is not above 0, two datasets have one name, or they do not fit
            each other: in cameras, in the number of actions, or in what their depth means.
    """
    if not isinstance(config, MixtureConfig):
        path = Path(config)
        config = parse_config(MixtureConfig, read_json(path, "mixture of datasets"), path)
    parts = [replace(part, name=part.name or Path(part.path).name) for part in config.parts]
    check_parts(config, parts)
    return Mixture(config, [_open(config, part) for part in parts])


@dataclass(frozen=True)
class OpenPart:
    """One dataset of a mixture, opened.

    Attributes:
        normalization: of its own state and actions, as far as the mixture takes them.
    """

    part: MixturePart
    dataset: LeRobotDataset
    normalization: Normalization

    def batch(self, frames: Sequence[int], config: MixtureConfig, state_size: int) -> Batch:
        """Its frames as samples of the mixture."""
        batch = self.dataset.batch(frames)
        images = {role: resize(batch.images[name], config.image_size) for role, name in self.part.cameras.items()}
        state = self.normalization.state.normalize(self.part.state.take(batch.state))
        depth = batch.depth
        if depth is not None and config.depth_size is not None:
            # the nearest pixel: depth between an object and what is behind it would be nowhere
            depth = F.interpolate(depth, (config.depth_size, config.depth_size))
        return replace(
            batch,
            images=images,
            state=F.pad(state, (0, state_size - state.shape[1])),
            actions=self.normalization.actions.normalize(self.part.actions.take(batch.actions)),
            depth=depth,
        )


class Mixture:
    """The samples of several datasets; see :func:`open_mixture`.

    A sample has the mixture's cameras in one size, state and actions normalised by its own dataset's statistics, and
    the state padded with zeros (the middle of its range) to the longest one.

    Attributes:
        parts: the datasets.
        shares: the expected share of each in the samples; they sum to 1.
    """

    def __init__(self, config: MixtureConfig, parts: Sequence[OpenPart]) -> None:
        self.config = config
        self.parts = list(parts)
        self.shares = [part.part.weight / sum(p.part.weight for p in parts) for part in parts]
        self.state_size = max(len(part.normalization.state.offset) for part in parts)
        self.action_size = len(parts[0].normalization.actions.offset)
        self._first = np.cumsum([0, *(len(part.dataset) for part in parts)])
        _check_together(self.parts, config)

    def __len__(self) -> int:
        """All frames of all datasets."""
        return int(self._first[-1])

    @property
    def normalization(self) -> Normalization:
        """For the policy in training: it changes nothing, because samples are normalised already."""

        def unchanged(size: int) -> Scaling:
            return Scaling((0.0,) * size, (1.0,) * size, clip=False)

        return Normalization(self.config.normalization, unchanged(self.state_size), unchanged(self.action_size))

    def normalization_of(self, name: str) -> Normalization:
        """For acting on the robot of one dataset, with the state and actions that its part of the mixture takes.

        Raises:
            UserError: there is no dataset of that name.
        """
        for part in self.parts:
            if part.part.name == name:
                return part.normalization
        there = ", ".join(part.part.name for part in self.parts)
        raise UserError(f"the mixture has no dataset {name!r}; there is: {there}.")

    def batch(self, places: Sequence[Place]) -> Batch:
        """The samples of these frames, in this order; ``index`` counts through all datasets, one after the other."""
        chosen = np.asarray(places, dtype=np.int64).reshape(-1, 2)
        order: list[int] = []
        batches = []
        for number in np.unique(chosen[:, 0]).tolist():
            rows = np.flatnonzero(chosen[:, 0] == number)
            frames = chosen[rows, 1]
            batch = self.parts[number].batch(frames, self.config, self.state_size)
            batches.append(replace(batch, index=torch.from_numpy(frames + self._first[number])))
            order.extend(rows.tolist())
        return _joined(batches, torch.from_numpy(np.argsort(order)))


class MixtureLoader:
    """Endless batches of a mixture from ``start_step`` on; pictures are decoded in ``workers`` processes."""

    def __init__(
        self,
        mixture: Mixture,
        batch_size: int,
        *,
        seed: int,
        start_step: int = 0,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start_method: str | None = None,
    ) -> None:
        lengths = [len(part.dataset) for part in mixture.parts]
        order = MixtureOrder(
            lengths, mixture.shares, batch_size, seed=seed, start_step=start_step, rank=rank, world_size=world_size
        )
        self._batches = DecodedBatches(mixture, order, workers, start_method)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)


def _open(config: MixtureConfig, part: MixturePart) -> OpenPart:
    dataset = open_dataset(
        part.path,
        cameras=list(dict.fromkeys(part.cameras.values())),
        horizon=config.horizon,
        depth=[part.depth] if config.depth_size else False,
        split=part.split,
    )
    if not len(dataset):
        raise UserError(f"{part.path}: the dataset has no frame to train on; check the split.")
    own = Normalization.from_stats(dataset.stats, config.normalization)
    state = part.state.scaling(own.state, f"{part.name}, state")
    actions = part.actions.scaling(own.actions, f"{part.name}, actions")
    return OpenPart(part, dataset, Normalization(own.kind, state, actions))


def _check_together(parts: Sequence[OpenPart], config: MixtureConfig) -> None:
    """Refuse datasets that do not fit each other."""
    first = parts[0]
    for part in parts:
        ours, theirs = (len(p.normalization.actions.offset) for p in (part, first))
        if ours != theirs:
            raise UserError(
                f"{part.part.name} has {ours} numbers in an action, {first.part.name} has {theirs}: a number that is "
                "not there cannot be learned; choose as many of each with actions.components."
            )
        kinds = [_depth_kind(p) for p in (part, first)]
        if config.depth_size and kinds[0] != kinds[1]:
            raise UserError(
                f"the depth of {part.part.name} is {kinds[0]}, that of {first.part.name} is {kinds[1]}: the two must "
                "not be mixed; annotate both with one estimator."
            )


def _depth_kind(part: OpenPart) -> str | None:
    name = part.dataset.depth_feature
    return None if name is None else part.dataset.info.features[name].depth_kind


def _joined(batches: Sequence[Batch], order: Tensor) -> Batch:
    """The rows of all batches, one after the other, in this order."""

    def join(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], dict):
            return {name: join([part[name] for part in parts]) for name in parts[0]}
        if isinstance(parts[0], list):
            rows = [row for part in parts for row in part]
            return [rows[i] for i in order.tolist()]
        return None if parts[0] is None else torch.cat(list(parts))[order]

    return Batch(**{f.name: join([getattr(batch, f.name) for batch in batches]) for f in fields(Batch)})
