"""How policies are tried in closed loop: the options that ``fathom eval`` and ``fathom ablate`` share."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from fathom.evaluation import Protocol


@dataclass(frozen=True, kw_only=True)
class Trying:
    """A protocol, and how its episodes are run."""

    suite: str = "metaworld"
    """The benchmark: `fathom doctor` lists them."""

    tasks: tuple[str, ...] = ()
    """The suite's tasks, by name; by default all of them."""

    protocol: Literal["quick", "official"] = "quick"
    """`official`: the benchmark's own episodes and pictures; `quick`: 10 episodes a task in small, plain pictures."""

    episodes: int | None = None
    """Episodes per task, if not as the protocol says."""

    image_size: int | None = None
    """Side of the pictures that the simulator draws, if not as the protocol says."""

    quality: Literal["fast", "official"] | None = None
    """The look of the pictures, if not as the protocol says: as in the demonstrations that the policy learned from."""

    execute: int = 4
    """Actions of each chunk that are carried out before the policy looks again."""

    spread: float | None = None
    """Meta-World only: metres in x by which objects are scattered to either side; by default its own, mostly 0.1."""

    environments: int = 8
    """Episodes that run side by side."""

    processes: int | None = None
    """Processes that run them; by default one per core."""

    sim_python: Path | None = None
    """A Python that has the simulator, where this one has not."""

    def to_protocol(self, **changes: Any) -> "Protocol":
        """What the options ask for; ``changes`` are further fields of it."""
        from fathom.evaluation import Protocol

        return Protocol.preset(
            self.protocol,
            self.suite,
            self.tasks,
            episodes=self.episodes,
            image_size=self.image_size,
            quality=self.quality,
            execute=self.execute,
            options=None if self.spread is None else {"spread": self.spread},
            **changes,
        )

    @property
    def simulation(self) -> dict[str, Any]:
        """How :func:`fathom.evaluation.evaluate` runs the episodes, which changes no result."""
        return {"environments": self.environments, "processes": self.processes, "sim_python": self.sim_python}
