"""Which features and episodes of a dataset are wanted, and whether they are there."""

from collections.abc import Sequence
from pathlib import Path

from fathom.data.features import DatasetInfo, camera_name
from fathom.data.metadata import Episode
from fathom.errors import UserError


def wanted_depth(root: Path, info: DatasetInfo, depth: bool | Sequence[str]) -> Sequence[str] | None:
    """The depth features asked for; ``None`` for all there are."""
    if depth is True:
        if not info.keys("depth"):
            raise UserError(
                f"{root}: the dataset has no depth feature; annotate it with depth, or train a policy without depth."
            )
        return None
    return depth or ()


def choose_features(
    root: Path, info: DatasetInfo, what: str, available: Sequence[str], wanted: Sequence[str] | None
) -> list[str]:
    """The full names of the wanted features, which may be given by their short ones."""
    by_name = {camera_name(key): key for key in available} | {key: key for key in available}
    if wanted is None:
        return list(available)
    for name in wanted:
        if name not in by_name:
            there = ", ".join(camera_name(key) for key in available) or "none"
            raise UserError(f"{root}: the dataset has no {what} {name!r}; there is: {there}.")
    return [by_name[name] for name in wanted]


def select_episodes(
    root: Path, info: DatasetInfo, episodes: list[Episode], split: str | None, indices: Sequence[int] | None
) -> list[Episode]:
    """The episodes of a split, or those of them with these indices."""
    if split is not None:
        if split not in info.splits:
            there = ", ".join(info.splits) or "none"
            raise UserError(f"{root}: the dataset has no split {split!r}; there is: {there}.")
        try:
            first, last = (int(part) for part in info.splits[split].split(":"))
        except ValueError as error:
            raise UserError(
                f"{root}/meta/info.json: split {split!r} is {info.splits[split]!r}, but first:last is expected."
            ) from error
        episodes = [episode for episode in episodes if first <= episode.index < last]
    if indices is None:
        return episodes
    by_index = {episode.index: episode for episode in episodes}
    for index in indices:
        if index not in by_index:
            raise UserError(f"{root}: there is no episode {index}; the dataset has {len(by_index)} to choose from.")
    return [by_index[index] for index in indices]


def first_of_each_task(root: Path, episodes: Sequence[Episode], count: int) -> list[int]:
    """The numbers of the first ``count`` episodes of each task, in order.

    Raises:
        UserError: a task has fewer, or none is asked for.
    """
    if count < 1:
        raise UserError(f"{count} episodes per task: at least 1 is needed.")
    by_task: dict[tuple[str, ...], list[int]] = {}
    for episode in episodes:
        by_task.setdefault(episode.tasks, []).append(episode.index)
    for task, indices in by_task.items():
        if len(indices) < count:
            raise UserError(
                f"{root}: {' / '.join(task)!r} has {len(indices)} episodes to learn from, {count} are wanted."
            )
    return sorted(index for indices in by_task.values() for index in indices[:count])


def check_reach(root: Path, episodes: Sequence[Episode], horizon: int, future: int) -> None:
    """Refuse to look further ahead than the longest episode goes: what lies there is padding at every frame."""
    longest = max((episode.length for episode in episodes), default=0)
    for name, value, most in (("horizon", horizon, longest), ("future", future, longest - 1)):
        if episodes and value > most:
            raise UserError(
                f"{name} = {value} reaches past the end of the longest episode ({longest} frames) of {root}: "
                f"choose {most} at most."
            )
