"""``fathom report``."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Report:
    """Write the report of a run or a training, finished or still going, or of evaluations under perturbations."""

    run_folder: tyro.conf.Positional[Path | None] = None
    """The folder of a quickstart run, of a policy that is trained, or of a depth tokenizer."""

    generalisation: tuple[Path, ...] = ()
    """In place of a run: folders of evaluations with and without perturbations."""

    out: Path = Path("generalisation.html")
    """Where the page about these goes; `.svg` or `.png` for the figure alone."""

    def run(self) -> None:
        from fathom.errors import UserError
        from fathom.report import write_report
        from fathom.report.generalisation import write_generalisation

        if (self.run_folder is None) == (not self.generalisation):
            raise UserError("name the folder of a run, or evaluations by --generalisation, and not both.")
        if self.run_folder is not None:
            print(write_report(self.run_folder))
        else:
            print(write_generalisation(self.generalisation, self.out))
