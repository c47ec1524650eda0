"""Writing the report of a run: one HTML file that needs nothing beside it."""

from pathlib import Path

from fathom.files import write_file

from . import sections
from .html import page, text
from .run import Run

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
"""What the page tells, in this order."""


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a quickstart run, finished or still going.

    Pictures, clips and style are part of the file, which asks for nothing from elsewhere. What the run does not have
    yet is left out.

    Raises:
        UserError: the folder is no run, or a part of it is damaged.
    """
    folder = Path(folder)
    run = Run.read(folder)
    title = f"Fathom · QDepth-VLA on {run.settings['protocol']['suite']}"
    content = page(title, [f"<h1>{text(title)}</h1>", *(part(run) for part in PARTS)])
    path = folder / "report.html"
    write_file(path, content.encode())
    return path
