"""``fathom vlm quickstart``."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class VlmQuickstart:
    """Draw scenes, ask, align, fine-tune a small VLM with and without depth, score and report."""

    out: Path = Path("runs/vlm_quickstart")
    """Where everything goes; an interrupted run continues there."""

    compare: bool = False
    """All five fusions, two seeds each."""

    scale: tuple[float, ...] = (1.0,)
    """Shares of the training scenes to learn from, such as 0.25 0.5 1; all are trained equally long."""

    questions: Path | None = None
    """A folder of `fathom vlm questions` to use in place of drawn scenes."""

    toy: bool = False
    """A minute's run that only shows that everything works."""

    def run(self) -> None:
        from fathom.recipes.depth_vlm import spatial_quickstart, spatial_toy
        from fathom.recipes.vlm_quickstart import run_vlm_quickstart

        run_vlm_quickstart(
            spatial_toy() if self.toy else spatial_quickstart(),
            self.out,
            compare_all=self.compare,
            shares=self.scale,
            questions=self.questions,
        )
