"""``fathom vlm questions``."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class VlmQuestions:
    """Make spatial questions and their true answers from a dataset's depth and segmentation."""

    dataset: tyro.conf.Positional[Path]
    """A LeRobot dataset of `fathom collect --segmentation`."""

    out: Path
    """The folder of the questions; it must not exist."""

    per_frame: int = 6
    """Questions about one frame, at most."""

    every: int = 10
    """Ask about one of so many frames."""

    test_share: float = 0.2
    """Of the episodes, whose frames are for the test only."""

    seed: int = 0
    """Of the split, of what is asked and how."""

    fovy: float | None = None
    """Vertical field of view of the camera, in degrees; by default what the dataset says."""

    tilt: float | None = None
    """Degrees by which it looks down, given with --fovy; without it nothing is asked about heights."""

    def run(self) -> None:
        from rich.console import Console
        from rich.table import Table

        from fathom.errors import UserError
        from fathom.vlm.questions import KINDS, View
        from fathom.vlm.questions.writing import write_questions

        if self.fovy is None and self.tilt is not None:
            raise UserError(f"--tilt {self.tilt:g}: also give --fovy, the camera's vertical field of view in degrees.")
        if self.fovy is not None and not 0 < self.fovy < 180:
            raise UserError(f"--fovy {self.fovy:g}: expected degrees between 0 and 180.")
        counts = write_questions(
            self.dataset,
            self.out,
            per_frame=self.per_frame,
            every=self.every,
            test_share=self.test_share,
            seed=self.seed,
            view=None if self.fovy is None else View(self.fovy, tilt=self.tilt),
        )
        table = Table("kind", *counts)
        for kind in KINDS:
            table.add_row(kind, *(str(split[kind]) for split in counts.values()))
        table.add_section()
        table.add_row("all", *(str(split.total()) for split in counts.values()))
        Console(highlight=False, markup=False).print(table)
