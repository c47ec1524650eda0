"""What long work has done so far, one line each, so that it can go on after an interruption."""

import json
import os
from pathlib import Path
from typing import Any

from fathom.errors import UserError
from fathom.files import write_file


class Journal:
    """A file of JSON lines that only grows: first the plan of the work, then what was done.

    An interruption costs at most the line that was being written.

    Attributes:
        entries: what was done before and since.
    """

    def __init__(self, path: Path, plan: dict[str, Any]) -> None:
        """Begin the work, or take up what is there.

        Raises:
            UserError: what is there was done for another plan.
        """
        self._path = path
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # the last one may have been cut
        head = json.dumps({"plan": plan}) + "\n"
        if whole and whole[0] != head:
            raise UserError(f"{path.parent}: holds work begun with other arguments; repeat those, or remove it.")
        self.entries: list[dict[str, Any]] = [json.loads(line) for line in whole[1:]]
        write_file(path, "".join(whole or [head]).encode())

    def append(self, entry: dict[str, Any]) -> None:
        """Add a line and wait until it is on the disk."""
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries.append(entry)
