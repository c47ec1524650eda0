"""Asset archives: data that a simulator needs, unpacked once into Fathom's cache."""

import contextlib
import fcntl
import hashlib
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from fathom.errors import UserError
from fathom.files import full_disk_is_told, sync

_MARKER = ".complete"


def assets_from(setting: str) -> Path | None:
    """The folder of assets that an environment variable names, or None where it is not set.

    Args:
        setting: the variable's name; its value is a folder or a tar archive, see :func:`unpack_once`.

    Raises:
        UserError: it names neither, or the archive cannot be unpacked.
    """
    value = os.environ.get(setting)
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.exists():
        raise UserError(f"{setting}={value}: there is no such folder or archive; set it to where the assets are.")
    return path if path.is_dir() else unpack_once(path)


def unpack_once(archive: Path) -> Path:
    """The folder that holds what ``archive`` holds, in ``${FATHOM_CACHE:-~/.cache/fathom}/assets``.

    The first call unpacks; later ones, of any process, find the folder. A replaced archive gets a folder of its own.
    Nothing is ever written outside that folder, whatever names and links the archive holds.

    Args:
        archive: a tar file, compressed by xz, gzip, bzip2 or not at all.

    Raises:
        UserError: it is no such file, it is broken or unsafe, the disk is full, or the cache cannot be written to.
    """
    folder = cache() / "assets" / f"{archive.name.split('.')[0]}-{_fingerprint(archive)}"
    if (folder / _MARKER).exists():
        return folder
    with _cannot_be_written(folder.parent), _only_one_process(folder):
        if not (folder / _MARKER).exists():
            _unpack(archive, folder)
    return folder


def cache() -> Path:
    """Where Fathom keeps what it can make again."""
    return Path(os.environ.get("FATHOM_CACHE") or "~/.cache/fathom").expanduser()


def _fingerprint(archive: Path) -> str:
    try:
        status = archive.stat()
    except OSError as error:
        raise UserError(f"{archive}: cannot be read ({error.strerror}); expected a tar archive of assets.") from None
    return hashlib.sha256(f"{archive.name} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:12]


def _unpack(archive: Path, folder: Path) -> None:
    """Into a folder beside, which then takes its place: what stands at ``folder`` is always whole."""
    partial = folder.with_name(f".{folder.name}.partial")
    for left_over in (partial, folder):
        shutil.rmtree(left_over, ignore_errors=True)
    partial.mkdir()
    try:
        with full_disk_is_told(folder), tarfile.open(archive) as content:
            content.extractall(partial, filter="data")
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        raise UserError(f"{archive}: not a whole, safe tar archive ({reason}); fetch it again.") from None
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    marker = partial / _MARKER
    marker.write_text(f"{archive.name}\n")
    sync(marker)
    partial.rename(folder)
    sync(folder.parent)


@contextlib.contextmanager
def _cannot_be_written(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        reason = f"cannot be written to ({error.strerror})"
        raise UserError(f"{folder}: {reason}; set FATHOM_CACHE to a folder that can.") from None
    except OSError as error:
        raise UserError(f"{folder}: the assets could not be unpacked there ({error}).") from None


@contextlib.contextmanager
def _only_one_process(folder: Path) -> Iterator[None]:
    """Others wait; the lock falls with the process that holds it, however that ends."""
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
