"""From the names of another code base to ours: strictly, every tensor accounted for before the first is written."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.errors import UserError
from fathom.policies.deepvision_vla import DeepVisionVLA
from fathom.policies.qdepth_vla import QDepthVLA
from fathom.policies.weights.checkpoint import FLOATS, Checkpoint, Entry
from fathom.policies.weights.fresh import fresh_tensors
from fathom.policies.weights.streaming import write_safetensors
from fathom.progress import progress_bar
from fathom.weights import first_few, shape_text


@dataclass(frozen=True)
class KeyMap:
    """What the tensors of a code base are here.

    Attributes:
        prefixes: how their names begin, and how ours do instead; the first that fits counts.
        tied: the same for second copies of tensors that are one there; they must be equal to the first.
        unread: patterns of their names that no policy here reads; they are left out.
        fresh: how the names of our parts begin that they do not have; these get first values.
        needless: patterns of our names that may be missing because nothing reads them; these become zeros.
    """

    prefixes: Mapping[str, str]
    tied: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    needless: tuple[str, ...] = ()

    def ours(self, theirs: str) -> str | None:
        """Our name for one of theirs."""
        for old, new in (*self.tied.items(), *self.prefixes.items()):
            if theirs.startswith(old):
                return new + theirs.removeprefix(old)
        return None

    def theirs(self, ours: str, names: Collection[str]) -> str:
        """Their name for one of ours, in the spelling that ``names`` have."""
        fitting = [(old, new) for old, new in self.prefixes.items() if ours.startswith(new)]
        if not fitting:
            return ours
        old, new = max(fitting, key=lambda pair: (len(pair[1]), any(name.startswith(pair[0]) for name in names)))
        return old + ours.removeprefix(new)


@dataclass(frozen=True)
class Conversion:
    """Where each of our tensors comes from; see :func:`plan`.

    Attributes:
        checkpoint: where they come from.
        model: the policy that they are for, on the meta device.
        sources: their names by ours, several where they are tied.
        fresh, zeros: our names that the checkpoint does not have, by what they get.
        unread: their names that are left out.
    """

    checkpoint: Checkpoint
    model: QDepthVLA | DeepVisionVLA
    sources: Mapping[str, list[str]]
    fresh: list[str] = field(default_factory=list)
    zeros: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def write(self, path: Path, seed: int) -> None:
        """Write our ``model.safetensors``, one tensor in memory at a time."""
        entries = {ours: self.checkpoint.entries[theirs[0]] for ours, theirs in self.sources.items()}
        shapes = self.model.state_dict()
        entries |= {ours: Entry(tuple(shapes[ours].shape), "F32") for ours in (*self.fresh, *self.zeros)}
        with progress_bar() as bar:
            task = bar.add_task("weights", total=len(entries), note="tensors")
            write_safetensors(path, entries, bar.track(self._tensors(seed), task_id=task))

    def _tensors(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        for ours, theirs in self.sources.items():
            yield ours, self.checkpoint.read(theirs[0])
        shapes = self.model.state_dict()
        for ours in self.zeros:
            yield ours, torch.zeros(shapes[ours].shape)
        yield from fresh_tensors(self.model, self.fresh, seed)


def plan(
    checkpoint: Checkpoint,
    key_map: KeyMap,
    config: Any,
    build: Callable[[Any], QDepthVLA | DeepVisionVLA] = QDepthVLA,
) -> Conversion:
    """Find for each of our tensors where it comes from; nothing is written yet.

    Args:
        build: makes the policy that the tensors are for.

    Raises:
        UserError: a tensor is missing, unknown, of another shape or of no floating-point type, or tensors that should
            be tied differ.
    """
    try:
        with torch.device("meta"):
            model = build(config)
    except ValueError as error:
        raise UserError(f"{checkpoint.path}: no model can have these sizes ({error})") from None
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    sources: dict[str, list[str]] = {}
    unread, complaints, found = [], [], set()
    for key, entry in checkpoint.entries.items():
        if any(fnmatchcase(key, pattern) for pattern in key_map.unread):
            unread.append(key)
            continue
        found.add(ours := key_map.ours(key))
        if ours is None or ours not in expected:
            complaints.append(f"unknown {key}")
        elif entry.shape != expected[ours]:
            complaints.append(f"{key} is {shape_text(entry.shape)}, expected {shape_text(expected[ours])}")
        elif entry.dtype not in FLOATS:
            complaints.append(f"{key} is of type {entry.dtype}, expected {', '.join(FLOATS)}")
        else:
            sources.setdefault(ours, []).append(key)
    lacking = [key for key in expected if key not in found]
    fresh = [key for key in lacking if key.startswith(key_map.fresh)]
    zeros = [key for key in lacking if any(fnmatchcase(key, pattern) for pattern in key_map.needless)]
    missing = [key for key in lacking if key not in {*fresh, *zeros}]
    complaints += [f"missing {key_map.theirs(key, checkpoint.entries)}" for key in missing]
    if complaints:
        sentence = f"{checkpoint.path} does not fit the model it is imported as: {first_few(complaints)}"
        raise UserError(sentence, sorted(complaints) if len(complaints) > 5 else ())
    _check_tied(checkpoint, sources)
    return Conversion(checkpoint, model, sources, fresh, zeros, unread)


def _check_tied(checkpoint: Checkpoint, sources: Mapping[str, list[str]]) -> None:
    for first, *others in sources.values():
        for other in others:
            same = checkpoint.entries[first].dtype == checkpoint.entries[other].dtype
            if not same or not torch.equal(checkpoint.read(first), checkpoint.read(other)):
                raise UserError(
                    f"{checkpoint.path}: {first} and {other} differ, but are one tensor in the model it is imported as"
                )
