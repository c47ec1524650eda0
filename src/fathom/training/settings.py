"""A run's folder belongs to its settings, and to what the run was made from."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from fathom.config import read_json
from fathom.errors import UserError
from fathom.files import write_json

_SETTINGS = "settings.json"


def claim(folder: Path, settings: Any, **made_from: str) -> None:
    """Take a folder for a run with these settings, or take up the run that has them already; see :func:`check`."""
    check(folder, settings, **made_from)
    write_json(folder / _SETTINGS, _entries(settings, made_from))


def check(folder: Path, settings: Any, **made_from: str) -> None:
    """Refuse a folder that belongs to another run, before any work is done.

    What a dataclass names in ``CHANGEABLE`` may be another than when the run began.

    Args:
        settings: a dataclass; what :func:`claim` writes to ``settings.json``.
        made_from: fingerprints of the dataset and of other models, which a run that goes on must find unchanged.

    Raises:
        UserError: the folder holds a run with other settings, or one made from something else.
    """
    path = folder / _SETTINGS
    if not path.is_file():
        return
    differences = _differences(_entries(settings, made_from), read_json(path, "run"))
    changeable = set(_changeable(settings))
    if told := [sentence for name, sentence in differences if name not in changeable]:
        raise UserError(
            f"{folder} holds a run with other settings ({'; '.join(told)}): choose another folder or delete it"
        )


def recorded(folder: Path) -> dict[str, Any]:
    """The settings of the run that a folder belongs to, with what it was made from; empty where it is nobody's."""
    path = folder / _SETTINGS
    return read_json(path, "run") if path.is_file() else {}


def _entries(settings: Any, made_from: Mapping[str, str]) -> dict[str, Any]:
    """As they come back from JSON, so that they can be compared."""
    extra = {"made_from": made_from} if made_from else {}
    return json.loads(json.dumps({**asdict(settings), **extra}))


def dataset_fingerprint(root: Path) -> str:
    """Changes when the dataset's features, episodes or statistics do."""
    digest = hashlib.sha256()
    for name in ("info.json", "stats.json"):
        digest.update((root / "meta" / name).read_bytes())
    return digest.hexdigest()[:16]


def policy_fingerprint(folder: Path, samples: int = 1024) -> str:
    """Changes with a policy's configuration and words, and with samples of its weights, spread over all of the file.

    Reading all of a large one would take too long.

    Raises:
        UserError: there is no policy.
    """
    digest = hashlib.sha256()
    path = folder / "model.safetensors"
    try:
        for name in ("config.json", "tokenizer.json"):
            digest.update((folder / name).read_bytes())
        with path.open("rb") as file:
            size = path.stat().st_size
            digest.update(str(size).encode())
            for sample in range(samples):
                file.seek(sample * size // samples)
                digest.update(file.read(4096))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{error.filename} is missing: a training starts from a policy or an imported checkpoint"
        ) from None
    return digest.hexdigest()[:16]


def _changeable(settings: Any, prefix: str = "") -> Iterator[str]:
    """The names, as in :func:`_differences`, of what need not be as it was."""
    for name in (one.name for one in fields(settings)):
        if name in getattr(settings, "CHANGEABLE", ()):
            yield f"{prefix}{name}"
        elif is_dataclass(value := getattr(settings, name)):
            yield from _changeable(value, f"{prefix}{name}.")


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each entry that is not the same, by its full name, with a sentence."""
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        here, there = ours.get(name), theirs.get(name)
        if isinstance(here, dict) and isinstance(there, dict):
            yield from _differences(here, there, f"{prefix}{name}.")
        elif here != there:
            yield f"{prefix}{name}", f"{prefix}{name} is {there} there and {here} here"
