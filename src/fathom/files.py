"""Writing files so that a reader, or a process that resumes, never sees half of one."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fathom.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SIGNS = ("No space left", "File too large", "Disk quota exceeded")


@contextmanager
def full_disk_is_told(path: Path) -> Iterator[None]:
    """Turns "no space left" from any library into one sentence.

    Raises:
        UserError: the disk that holds ``path`` is full.
    """
    try:
        yield
    except Exception as error:  # av's own errors are no OSErrors
        if is_full_disk(error):
            raise UserError(
                f"{path}: the disk is full; free some space and run again: what is complete is kept."
            ) from error
        raise


def is_full_disk(error: BaseException | None) -> bool:
    """Whether this, or what caused it, is a full disk; writers in other languages tell it only in their message."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or any(sign in f"{error} {error!r}" for sign in _SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A temporary path to write to; afterwards the file is at ``path``, whole and on the disk, or not there at all.

    Raises:
        UserError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with full_disk_is_told(path):
            yield temporary
            sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Writes ``content``, see :func:`atomically`."""
    with atomically(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    write_file(path, json.dumps(value, indent=4).encode())


def sync(path: Path) -> None:
    """Waits until a file (or the entries of a folder) is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with full_disk_is_told(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
