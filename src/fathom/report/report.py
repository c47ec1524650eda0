"""Writing the report of a run or of a training: one HTML file that needs nothing beside it."""

from pathlib import Path

from fathom.config import read_json
from fathom.files import write_file

from . import sections
from .html import page, text
from .run import Run
from .training import is_training, training_page

PARTS = (
    sections.verdict_of,
    sections.success,
    sections.clips,
    sections.depth,
    sections.visibility,
    sections.training,
    sections.demonstrations,
    sections.tokenizer,
    sections.configuration,
    sections.command,
)
"""What the page of a quickstart run tells, in this order."""


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a quickstart run or of one training, finished or still going.

    Pictures, clips and style are part of the file, which asks for nothing from elsewhere. What the run does not have
    yet is left out.

    Raises:
        UserError: the folder is no run, or a part of it is damaged.
    """
    folder = Path(folder)
    settings = folder / "settings.json"
    if settings.is_file() and is_training(found := read_json(settings, "run")):
        title, parts = training_page(folder, found)
    else:
        title, parts = _run_page(Run.read(folder))
    path = folder / "report.html"
    write_file(path, page(title, parts).encode())
    return path


def _run_page(run: Run) -> tuple[str, list[str]]:
    title = f"Fathom · QDepth-VLA on {run.settings['protocol']['suite']}"
    return title, [f"<h1>{text(title)}</h1>", *(part(run) for part in PARTS)]
