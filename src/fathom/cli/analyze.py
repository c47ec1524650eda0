"""``fathom analyze``."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class AnalyzeGrounding:
    """Measure layer by layer whether a policy's actions look at the object, and whether they need it."""

    policy: tyro.conf.Positional[Path]
    """A saved policy."""

    dataset: tyro.conf.Positional[Path]
    """A LeRobot dataset that the policy could have learned from, of `fathom collect --segmentation` unless `--box`."""

    out: Path = Path("grounding")
    """The folder of grounding.html and grounding.json."""

    beside: tuple[Path, ...] = ()
    """More policies, to be compared on the same frames."""

    object: str | None = None
    """The object, by its label or what people call it; by default what the instruction names."""

    box: tuple[int, int, int, int] | None = None
    """In place of an object: left, top, right and bottom of a box in the picture, in pixels."""

    frames: int = 64
    """Held-out frames to measure on, drawn from those that show the region."""

    shown: int = 3
    """How many of them to draw heat maps of."""

    layers: tuple[int, ...] = ()
    """The layers from which on tokens are removed; by default every one."""

    rates: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Shares of the region's tokens to remove."""

    split: str | None = None
    """Of the dataset; by default `validation` where there is such, else all of it."""

    seed: int = 0
    """Of the frames, of the tokens to remove and of the noise that a flow starts from."""

    def run(self) -> None:
        from fathom.analysis import Box, Named, Settings, analyze_grounding, load_policies
        from fathom.errors import UserError
        from fathom.report.grounding import write_grounding

        if self.box is not None and self.object is not None:
            raise UserError("--object and --box both say where the region is: give one of them")
        settings = Settings(self.frames, self.shown, self.layers, self.rates, self.split, self.seed)
        source = Named(self.object) if self.box is None else Box(*self.box)
        policies = load_policies([self.policy, *self.beside])
        print(write_grounding(analyze_grounding(policies, self.dataset, source, settings), self.out))
