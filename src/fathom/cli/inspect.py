"""``fathom inspect``."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Inspect:
    """Look at episodes of a dataset: pictures, depth, codes, actions and instruction."""

    dataset: tyro.conf.Positional[Path]
    """A LeRobot dataset."""

    episodes: tuple[int, ...] = ()
    """Which; by default the first three."""

    frames: int = 6
    """Frames to show of each."""

    tokenizer: Path | None = None
    """A depth tokenizer whose codes are shown too."""

    out: Path | None = None
    """The file to write: an HTML page, by default `<dataset>.html` where you are; with `--rerun` a recording."""

    rerun: bool = False
    """Open the first of the episodes in Rerun's viewer, or write it to `--out`, in place of a page."""

    def run(self) -> None:
        from fathom.depth.tokenizer import DepthTokenizer
        from fathom.report.inspect import show_in_rerun, write_contact_sheet

        tokenizer = DepthTokenizer.load(self.tokenizer) if self.tokenizer else None
        if self.rerun:
            show_in_rerun(self.dataset, self.episodes[0] if self.episodes else 0, self.out, tokenizer)
            return
        out = self.out or Path(f"{self.dataset.resolve().name}.html")
        chosen = self.episodes or None
        print(write_contact_sheet(self.dataset, out, episodes=chosen, frames=self.frames, tokenizer=tokenizer))
