"""``fathom collect``."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Collect:
    """Record demonstrations of a simulator's scripted experts as a LeRobot dataset."""

    out: Path
    """The dataset's folder; it must not exist."""

    tasks: tuple[str, ...]
    """The suite's tasks, by name."""

    suite: str = "metaworld"
    """The simulator."""

    episodes: int = 50
    """Successful episodes to keep of each task."""

    image_size: int = 128
    """Side of the square pictures, in pixels."""

    spread: float | None = None
    """Metres in x by which objects are scattered to either side; by default Meta-World's own, mostly 0.1."""

    segmentation: bool = False
    """Add an instance segmentation with its table of names."""

    processes: int = 2
    """Processes that simulate side by side; the result does not depend on it."""

    def run(self) -> None:
        from fathom.simulation.collect import collect

        collect(
            self.suite,
            self.tasks,
            self.episodes,
            self.out,
            image_size=self.image_size,
            spread=self.spread,
            segmentation=self.segmentation,
            processes=self.processes,
        )
