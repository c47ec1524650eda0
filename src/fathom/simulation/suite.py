"""What a suite is: a benchmark's tasks, the robot that they are done with, and how to build them."""

import difflib
import importlib.metadata
import platform
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from fathom.errors import UserError
from fathom.simulation.noise import ExpertNoise

if TYPE_CHECKING:
    from fathom.simulation.environment import Environment


class Expert(Protocol):
    """A scripted controller that looks at the simulator's true state; made anew for each episode."""

    def __call__(self) -> NDArray[Any]:
        """The action for now, float32 (A,) within the robot's bounds."""


@dataclass(frozen=True)
class Robot:
    """What a suite's robot says and is told.

    Attributes:
        name: as datasets call it.
        fps: actions per second.
        state_names: the components of its proprio.
        action_names: the components of its actions; the first three move the hand, the last one is the gripper.
        cameras: the views there are; ``main`` is the first.
    """

    name: str
    fps: int
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    cameras: tuple[str, ...] = ("main",)


class Suite(ABC):
    """A benchmark. Making one imports no simulator: that happens in :meth:`make`, in a worker process.

    Attributes:
        name: as in ``fathom eval --suite``.
        instructions: the sentence of each task, in the benchmark's own order.
        robot: what carries the tasks out.
        initial_states: how many recorded initial states each task has; 0 where layouts come from seeds alone.
        official: fields of :class:`~fathom.evaluation.protocol.Protocol` that the official protocol fixes.
        noise: that disturbs its scripted experts while demonstrations are recorded.
        options: keyword arguments of its environments that only this suite has.
        packages: whose versions decide an outcome.
    """

    name: str
    instructions: Mapping[str, str]
    robot: Robot
    initial_states: int = 0
    official: Mapping[str, Any]
    noise: ExpertNoise = ExpertNoise()
    options: tuple[str, ...] = ()
    packages: tuple[str, ...]

    @abstractmethod
    def prepare(self) -> None:
        """Raise a UserError that says how to mend it if this Python cannot simulate or draw the suite."""

    @abstractmethod
    def make(self, task: str, **options: Any) -> "Environment":
        """The environment of a task, after :meth:`prepare`; ``options`` are its keyword arguments."""

    @abstractmethod
    def expert(self, env: "Environment") -> Expert:
        """A scripted expert for the episode that has just begun in ``env``.

        Raises:
            UserError: there is none for this task.
        """

    def task(self, task: str | int) -> str:
        """A task's name, from its name or its number in the benchmark's order.

        Raises:
            UserError: there is none; near names are listed.
        """
        names = list(self.instructions)
        if isinstance(task, int):
            if not 0 <= task < len(names):
                raise UserError(f"{self.name} has the tasks 0 to {len(names) - 1}, and no task {task}.")
            return names[task]
        if task not in self.instructions:
            near = difflib.get_close_matches(task, names, n=4, cutoff=0.4) or sorted(names)[:8]
            raise UserError(f"no task called {task!r} in {self.name}: did you mean {', '.join(near)}?")
        return task

    def versions(self) -> dict[str, str]:
        """Of this Python and of the packages that decide an outcome; ask after :meth:`prepare`."""
        found = {"python": platform.python_version()}
        for package in ("numpy", *self.packages):
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        return found
