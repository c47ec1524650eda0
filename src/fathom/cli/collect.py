"""``fathom collect``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Collect:
    """Record demonstrations of a simulator's scripted experts as a LeRobot dataset."""

    out: Path
    """The dataset's folder; it must not exist."""

    suite: str = "metaworld"
    """The benchmark: `fathom doctor` lists them."""

    tasks: tuple[str, ...] = ()
    """The suite's tasks, by name; by default all of them."""

    episodes: int = 50
    """Successful episodes to keep of each task."""

    cameras: tuple[str, ...] = ("main",)
    """Views to record; depth is that of the first, `main`."""

    image_size: int = 128
    """Side of the square pictures, in pixels."""

    quality: Literal["fast", "official"] = "fast"
    """The look of the pictures: `official` is the benchmark's own, which takes longer to draw."""

    spread: float | None = None
    """Meta-World only: metres in x by which objects are scattered to either side; by default its own, mostly 0.1."""

    segmentation: bool = False
    """Add an instance segmentation with its table of names."""

    processes: int = 2
    """Processes that simulate side by side; the result does not depend on it."""

    sim_python: Path | None = None
    """A Python that has the simulator, where this one has not."""

    def run(self) -> None:
        from fathom.simulation.collect import collect
        from fathom.simulation.demonstrations import Style

        options = () if self.spread is None else (("spread", self.spread),)
        collect(
            self.suite,
            self.tasks,
            self.episodes,
            self.out,
            style=Style(self.image_size, self.cameras, self.quality, options),
            segmentation=self.segmentation,
            processes=self.processes,
            sim_python=self.sim_python,
        )
