"""From a path or a Hugging Face hub id to a folder on this machine."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fathom.errors import UserError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def hub_id(source: str | Path) -> str | None:
    """``source`` if it names a repository of the hub, rather than a folder or file of this machine."""
    return None if Path(source).exists() or not _HUB_ID.fullmatch(str(source)) else str(source)


def revision_of(folder: Path) -> str | None:
    """The commit that a downloaded repository is of, by where ``huggingface_hub`` has put it."""
    return folder.name if folder.parent.name == "snapshots" else None


def local_folder(source: str | Path, files: Sequence[str], **download: Any) -> Path:
    """The folder (or file) ``source`` if there is one, else a download of the hub repository of that name.

    Args:
        files: the patterns of what is needed of a repository; the rest is not downloaded.
        download: what ``huggingface_hub.snapshot_download`` is told beside that: ``revision``, ``token`` …

    Raises:
        UserError: it is neither, or the hub does not give it out.
    """
    path = Path(source)
    if path.exists():
        return path
    if not _HUB_ID.fullmatch(str(source)):
        raise UserError(f"{source}: there is no such folder, and it is no hub id such as owner/name either")
    from huggingface_hub import snapshot_download  # half a second, and only needed here

    try:
        return Path(snapshot_download(str(source), allow_patterns=list(files), **download))
    except Exception as error:  # the hub's errors, those of the network beneath it, and a full cache
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{source}: there is no such folder, and the hub did not give it out ({reason})") from error
