"""What long work has done so far, one line each, so that it can go on after an interruption."""

import json
import os
from pathlib import Path
from typing import Any

from fathom.errors import UserError
from fathom.files import full_disk_is_told, write_file


class Journal:
    """A file of JSON lines that only grows: first the plan of the work, then what was done.

    An interruption costs at most the line that was being written.

    Attributes:
        entries: what was done before and since.
    """

    def __init__(self, path: Path, plan: dict[str, Any]) -> None:
        """Begin the work, or take up what is there.

        Raises:
            UserError: what is there was done for another plan, or cannot be read.
        """
        self._path = path
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # the last one may have been cut
        head = json.dumps({"plan": plan}) + "\n"
        if whole and whole[0] != head:
            raise UserError(f"{path.parent}: holds work begun with other arguments; repeat those, or remove it.")
        self.entries: list[dict[str, Any]] = [_entry(path, number, line) for number, line in enumerate(whole[1:], 2)]
        write_file(path, "".join(whole or [head]).encode())

    def append(self, entry: dict[str, Any]) -> None:
        """Add a line and wait until it is on the disk."""
        with full_disk_is_told(self._path), self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries.append(entry)


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path}, line {number}: not what was written there; delete the line to do its part again.")
    return value
