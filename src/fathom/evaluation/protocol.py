"""What an evaluation fixes, so that two results can be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from fathom.errors import UserError
from fathom.simulation import EVALUATION_SEED, find_suite
from fathom.simulation.perturbation import Perturbation
from fathom.simulation.rollout import Episode

Preset = Literal["official", "quick"]


@dataclass(frozen=True)
class Protocol:
    """A suite of tasks, and how each is tried.

    Attributes:
        episodes: per task, on the layouts of seeds ``first_seed``, ``first_seed + 1``, ... or, where the benchmark has
            recorded initial states, on the first ones of these.
        first_seed: from :data:`~fathom.simulation.EVALUATION_SEED` on, layouts are disjoint from all demonstrations.
        execute: actions of each chunk that are carried out before the policy looks again.
        image_size: side of the square pictures that the simulator draws, in pixels.
        quality: the look of the pictures, as the policy was trained on.
        perturbation: what is changed that the policy has not been trained on.
        options: of the suite's own environments. Meta-World's own protocol has an ``action_repeat`` of 1 simulator step
            per action; ours is 2 and halves the length of an episode, in demonstrations and here alike.
        noise_seed: of the policy's own randomness.
    """

    suite: str
    tasks: tuple[str, ...]
    episodes: int = 20
    first_seed: int = EVALUATION_SEED
    execute: int = 4
    image_size: int = 128
    quality: Literal["fast", "official"] = "fast"
    perturbation: Perturbation | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    noise_seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError on an unknown suite, task or option, or where nothing would be tried."""
        suite = find_suite(self.suite)
        if self.image_size < 16:
            raise UserError(f"pictures have at least 16 pixels a side, not {self.image_size}.")
        for task in self.tasks:
            suite.task(task)
        if not self.tasks or len(set(self.tasks)) != len(self.tasks) or self.episodes < 1 or self.execute < 1:
            raise UserError("an evaluation needs tasks, each named once, and at least one episode and one action.")
        if suite.initial_states and self.episodes > suite.initial_states:
            raise UserError(
                f"{self.suite} has {suite.initial_states} initial states for each task: try at most so many episodes."
            )
        if unknown := set(self.options) - set(suite.options):
            raise UserError(f"the environments of {self.suite} have no option called {min(unknown)!r}.")

    @classmethod
    def preset(cls, name: Preset, suite: str, tasks: Sequence[str] = (), **changes: Any) -> Self:
        """A suite's official protocol, or a quick one: 10 episodes of each task in small, plain pictures.

        Args:
            tasks: all of the suite's if empty.
            changes: fields that are otherwise; those that are ``None`` stay as they are, and so do options not named.
        """
        found = find_suite(suite)
        fixed: dict[str, Any] = {"episodes": 10} if name == "quick" else dict(found.official)
        changes = {field: value for field, value in changes.items() if value is not None}
        options = {**fixed.get("options", {}), **changes.get("options", {})}
        fixed |= changes | {"options": options}
        return cls(suite, tuple(tasks) or tuple(found.instructions), **fixed)

    def plan(self) -> list[Episode]:
        """Every episode, task by task."""
        recorded = find_suite(self.suite).initial_states > 0
        return [Episode(task, self.first_seed + i, i, recorded) for task in self.tasks for i in range(self.episodes)]

    def environment(self) -> dict[str, Any]:
        """Options for :func:`~fathom.simulation.make_env`."""
        options = {"image_size": self.image_size, "quality": self.quality, **self.options}
        return options if self.perturbation is None else options | {"perturbation": self.perturbation}

    def to_json(self) -> dict[str, Any]:
        """As it stands in a result file."""
        return asdict(self) | {"tasks": list(self.tasks)}
