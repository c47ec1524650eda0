"""Other people's weights on disk: what there is is known at once, each tensor is read when it is asked for."""

import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fathom.config import read_json
from fathom.errors import UserError
from fathom.weights import first_few

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The types that weights can have, by the names that safetensors gives them."""

_NAMES = {dtype: name for name, dtype in FLOATS.items()}
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_COMPILED = "_orig_mod."  # `torch.compile` puts it before the names of what it wraps


@dataclass(frozen=True)
class Entry:
    """What is known of a tensor before it is read.

    Attributes:
        shape: its sizes.
        dtype: its type: one of :data:`FLOATS`, or as the file calls it.
    """

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors in one file or several.

    Attributes:
        path: the file or folder, for messages.
        entries: what there is, by name.
        read: gives one tensor. Of a safetensors file nothing stays in memory once the tensor is let go.
    """

    path: Path
    entries: Mapping[str, Entry]
    read: Callable[[str], Tensor]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a safetensors file, a folder with one or with shards and their index, or a ``.pt`` of tensors alone.

    Raises:
        UserError: there is none, it is damaged, or it is a pickle of more than tensors.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint; give a .safetensors or .pt file, or a folder with one")
    return _open_shards(path, [path]) if path.suffix == ".safetensors" else _open_pickle(path)


def _open_folder(folder: Path) -> Checkpoint:
    if (folder / _WHOLE).is_file():
        return _open_shards(folder, [folder / _WHOLE])
    if not (folder / _INDEX).is_file():
        raise UserError(f"{folder} has neither {_WHOLE} nor {_INDEX}: give a folder of weights as safetensors")
    where = read_json(folder / _INDEX, "index of shards").get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise UserError(f"{folder / _INDEX} has no weight_map, which says where each tensor is: download it again")
    checkpoint = _open_shards(folder, [folder / name for name in sorted(set(where.values()))])
    if lost := [key for key in where if key.replace(_COMPILED, "") not in checkpoint.entries]:
        raise UserError(f"{folder / _INDEX} names tensors that no shard has ({first_few(lost)}): download it again")
    return checkpoint


def _open_shards(path: Path, files: Sequence[Path]) -> Checkpoint:
    entries: dict[str, Entry] = {}
    file_of: dict[str, Path] = {}
    for file in files:
        with _opened(file) as tensors:
            for key in tensors.keys():  # noqa: SIM118 (no mapping)
                part = tensors.get_slice(key)
                entries[key] = Entry(tuple(part.get_shape()), part.get_dtype())
                file_of[key] = file

    def read(key: str) -> Tensor:
        # Opened anew each time: a file that stays open keeps in memory all that was ever read of it.
        with _opened(file_of[key]) as tensors:
            return tensors.get_tensor(key)

    return _named(path, entries, read)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path} is missing, although the index names it: download it again") from None
    except SafetensorError as error:
        raise UserError(f"{path} is cut short, damaged or no safetensors file ({error}): download it again") from None


def _open_pickle(path: Path) -> Checkpoint:
    """A state dict by itself, or under ``model`` beside the optimiser's, as open-pi-zero's published files have it."""
    content = _unpickled(path)
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path} holds no weights by name, neither by themselves nor under 'model'")
    entries = {k: Entry(tuple(v.shape), _NAMES.get(v.dtype, str(v.dtype))) for k, v in content.items()}
    return _named(path, entries, content.__getitem__)


def _unpickled(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)  # all that torch.save has written since 2020; only these can be mapped
    with path.open("rb") as file:
        if not zipped and file.read(4) == b"PK\x03\x04":
            raise UserError(f"{path} is cut short: download it again")
    try:
        with warnings.catch_warnings(action="ignore"):  # it warns of what it then refuses
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is a pickle of more than tensors, and reading it could run code, so it is not read: "
            "save its state dict alone, best as .safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is cut short, damaged or no checkpoint ({reason}): download it again") from None


def _named(path: Path, entries: Mapping[str, Entry], read: Callable[[str], Tensor]) -> Checkpoint:
    """The checkpoint by the names that its tensors have without compilation."""
    names: dict[str, str] = {}
    for key in entries:
        if (name := key.replace(_COMPILED, "")) in names:
            raise UserError(f"{path} has both {names[name]} and {key}, which are one tensor of one model")
        names[name] = key
    return Checkpoint(path, {name: entries[key] for name, key in names.items()}, lambda name: read(names[name]))
