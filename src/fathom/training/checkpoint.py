"""A training run's state on disk, so that a run killed at any instant goes on to the same weights.

A checkpoint is a folder of safetensors files, one of each process, written by ``torch.distributed.checkpoint`` while
the training goes on. It is written under another name and renamed once all of it is on the disk, so a folder ``step-…``
is whole. Nothing in it is a pickle. It can be read by another number of processes than wrote it.
"""

import json
import re
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from zlib import crc32

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from fathom.errors import UserError
from fathom.files import is_full_disk, sync, write_file, write_json
from fathom.training.distributed import ALONE, World

_MARK = "checkpoint.json"

warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process alone is nothing to be warned of


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is whole.

    Attributes:
        folder: where it is.
        step: optimiser steps that were done.
        loss: the mean training loss since the checkpoint before it; ``None`` if all steps were skipped.
        files: the names of its files.
    """

    folder: Path
    step: int
    loss: float | None
    files: tuple[str, ...]


class Checkpoints:
    """The checkpoints of a run: saves in the background, keeps the last and the best, finds the newest whole one.

    Used as ``with checkpoints:``, it does not leave before the save under way is done.
    """

    def __init__(self, run: Path, world: World = ALONE, *, keep_last: int = 1, keep_best: int = 0) -> None:
        self.folder = run / "checkpoints"
        self.world = world
        self.keep_last, self.keep_best = keep_last, keep_best
        self._under_way: Future[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """What is being saved is saved, whatever it was that ended the training."""
        with suppress(*(() if kind is None else (Exception,))):
            self.wait()

    def save(self, step: int, state: Mapping[str, Tensor], loss: float | None) -> None:
        """Begin to save; the caller may change the tensors afterwards.

        Raises:
            UserError: the disk is full, here or when the save before this one ended.
        """
        self.wait()
        path = self.folder / f".step-{step:08d}"
        if self.world.is_first:
            self._clear()
            self.folder.mkdir(parents=True, exist_ok=True)
        self.world.wait()
        writer = _Writer(self, path, step, loss)
        dense = {name: tensor.detach().contiguous() for name, tensor in state.items()}
        self._under_way = dcp.async_save(  # type: ignore[assignment]
            dense, storage_writer=writer, process_group=self.world.saving, no_dist=self.world.size == 1
        )

    def wait(self) -> None:
        """Until the save that is under way is on the disk.

        Raises:
            UserError: the disk is full; the checkpoints before are kept.
        """
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return
        try:
            under_way.result()
        except BaseException as error:
            self._clear()
            if not is_full_disk(error):
                raise
            raise UserError(
                f"{self.folder}: the disk is full; free some space and run again: the checkpoint before is kept."
            ) from error

    def newest(self) -> Saved | None:
        """The newest checkpoint that is whole; says on standard error which newer ones are damaged, and deletes them.

        Left there, they would be counted among the last ones that are kept, in the place of whole ones.

        Raises:
            UserError: there are checkpoints, and all are damaged.
        """
        damaged: dict[Path, str] = {}
        for folder in reversed(_finished_folders(self.folder)):
            saved, complaint = self._look_at(folder)
            if saved is None:
                damaged[folder] = complaint
                continue
            if self.world.is_first:
                for worse, told in damaged.items():
                    print(f"fathom: the checkpoint {worse} is damaged ({told})", file=sys.stderr)
                    remove(worse)
            return saved
        if not damaged:
            return None
        told = next(iter(damaged.values()))
        raise UserError(f"{self.folder} holds no checkpoint that is whole ({told}): delete it to train anew")

    def load(self, saved: Saved, state: Mapping[str, Tensor]) -> None:
        """Read into these tensors, of which each process may have another part than when they were saved.

        Raises:
            UserError: they are of another shape.
        """
        reader = HuggingFaceStorageReader(str(saved.folder))
        try:
            dcp.load(dict(state), storage_reader=reader, process_group=self.world.saving, no_dist=self.world.size == 1)
        except CheckpointException as error:
            reason = next(iter(error.failures.values()))[0]
            if not isinstance(reason, ValueError):
                raise reason from error
            raise UserError(
                f"{saved.folder} is of another model ({reason}): choose another folder, or delete it to train anew"
            ) from error

    def names(self, saved: Saved) -> set[str]:
        """What the tensors of a checkpoint are called."""
        return set(HuggingFaceStorageReader(str(saved.folder)).read_metadata().state_dict_metadata)

    def finish(self, path: Path, step: int, loss: float | None) -> None:
        """All processes have written: give the checkpoint its name, and delete those that are no longer kept."""
        files = sorted(file.name for file in path.iterdir() if file.suffix == ".safetensors")
        write_json(path / _MARK, {"step": step, "loss": loss, "files": files})
        sync(path)
        final = path.with_name(path.name[1:])
        shutil.rmtree(final, ignore_errors=True)
        path.rename(final)
        sync(self.folder)
        found = finished(self.folder.parent)
        for saved in found[: -self.keep_last]:
            if saved not in _best(found, self.keep_best):
                remove(saved.folder)

    def _clear(self) -> None:
        """Delete what a save left behind that was never finished."""
        for unfinished in self.folder.glob(".step-*"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def _look_at(self, folder: Path) -> tuple[Saved | None, str]:
        """A checkpoint, or what is wrong with it; the processes share the reading of its files."""
        saved = _read(folder)
        if saved is None:
            complaint: str | None = f"{_MARK} cannot be read"
        else:
            own = saved.files[self.world.rank :: self.world.size]
            complaint = next(filter(None, (_damaged(folder / name) for name in own)), None)
        told = self.world.first_word(complaint)
        return (saved, "") if told is None else (None, told)


class _Writer(HuggingFaceStorageWriter):
    """Each process writes its own file, and beside it what the file's checksum is; the first process finishes."""

    def __init__(self, checkpoints: Checkpoints, path: Path, step: int, loss: float | None) -> None:
        super().__init__(str(path), save_distributed=True)
        self.checkpoints, self.folder, self.step, self.loss = checkpoints, path, step, loss

    def write_data(self, plan: Any, planner: Any) -> Any:
        written = super().write_data(plan, planner)
        for name in {result.storage_data.relative_path for result in written.value()}:
            path = self.folder / name
            write_file(_checksum_path(path), str(_checksum(path)).encode())
        return written

    def finish(self, metadata: Any, results: Any) -> None:
        self.checkpoints.finish(self.folder, self.step, self.loss)


def finished(run: Path) -> list[Saved]:
    """The checkpoints of a run's folder, oldest first; without those whose mark is damaged."""
    return [saved for folder in _finished_folders(run / "checkpoints") if (saved := _read(folder)) is not None]


def remove(folder: Path) -> None:
    """Delete a checkpoint; its mark goes first, so that half of one is none."""
    (folder / _MARK).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def remove_all(run: Path, *, keep_best: int = 0) -> None:
    """Delete the checkpoints of a run that is done, but for the best."""
    found = finished(run)
    best = _best(found, keep_best)
    for saved in found:
        if saved not in best:
            remove(saved.folder)
    if not best:
        shutil.rmtree(run / "checkpoints", ignore_errors=True)


def _finished_folders(checkpoints: Path) -> list[Path]:
    """Oldest first."""
    folders = [path for path in checkpoints.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted((path for path in folders if (path / _MARK).is_file()), key=lambda path: int(path.name[5:]))


def _read(folder: Path) -> Saved | None:
    """What a checkpoint's mark says; ``None`` if it cannot be read."""
    try:
        mark = json.loads((folder / _MARK).read_text())
        return Saved(folder, mark["step"], mark["loss"], tuple(mark["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _best(found: Sequence[Saved], count: int) -> list[Saved]:
    """Those of the lowest loss."""
    return sorted(found, key=lambda saved: float("inf") if saved.loss is None else saved.loss)[:count]


def _damaged(path: Path) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    try:
        right = int(_checksum_path(path).read_text()) == _checksum(path)
    except (FileNotFoundError, ValueError):
        right = False
    return None if right else f"{path.name} has changed since it was written"


def _checksum_path(path: Path) -> Path:
    return path.with_suffix(".crc32")


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            checksum = crc32(block, checksum)
    return checksum
