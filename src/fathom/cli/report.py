"""``fathom report``."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Report:
    """Write the report of a run, finished or still going."""

    run_folder: tyro.conf.Positional[Path]
    """The folder of a quickstart run."""

    def run(self) -> None:
        from fathom.report import write_report

        print(write_report(self.run_folder))
