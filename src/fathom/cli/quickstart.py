"""``fathom quickstart``."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Quickstart:
    """Collect, tokenise, co-train, evaluate and report on a simulator, in a quarter of an hour."""

    out: Path = Path("runs/quickstart")
    """Where everything goes; an interrupted run continues there."""

    compare: bool = False
    """Also train and evaluate the policy without depth and without sight (three quarters of an hour)."""

    toy: bool = False
    """A minute's run that only shows that everything works."""

    def run(self) -> None:
        from fathom.recipes.pipeline import run_quickstart
        from fathom.recipes.quickstart import quickstart, quickstart_toy

        run_quickstart(quickstart_toy() if self.toy else quickstart(), self.out, compare=self.compare)
