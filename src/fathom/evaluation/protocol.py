"""What an evaluation fixes, so that two results can be compared."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from fathom.errors import UserError
from fathom.simulation import EVALUATION_SEED, check_task
from fathom.simulation.metaworld_tasks import ACTION_REPEAT
from fathom.simulation.rollout import Episode


@dataclass(frozen=True)
class Protocol:
    """A suite of tasks, and how each is tried.

    Attributes:
        episodes: per task, on the layouts of seeds ``first_seed``, ``first_seed + 1``, ...
        first_seed: from :data:`~fathom.simulation.EVALUATION_SEED` on, layouts are disjoint from all demonstrations.
        execute: actions of each chunk that are carried out before the policy looks again.
        action_repeat: simulator steps per action. Meta-World's own protocol has 1; ours halves the length of an
            episode, in demonstrations and here alike. The limit is Meta-World's 500 simulator steps either way.
        spread: how far objects are scattered, see :class:`~fathom.simulation.metaworld.MetaWorldEnv`.
        quality: the look of the pictures, as the policy was trained on.
        noise_seed: of the policy's own randomness.
    """

    suite: str
    tasks: tuple[str, ...]
    episodes: int = 20
    first_seed: int = EVALUATION_SEED
    execute: int = 4
    action_repeat: int = ACTION_REPEAT
    image_size: int = 128
    spread: float | None = None
    quality: Literal["fast", "official"] = "fast"
    noise_seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError on an unknown suite or task, or where nothing would be tried."""
        for task in self.tasks:
            check_task(self.suite, task)
        if not self.tasks or len(set(self.tasks)) != len(self.tasks) or self.episodes < 1 or self.execute < 1:
            raise UserError("an evaluation needs tasks, each named once, and at least one episode and one action.")

    def plan(self) -> list[Episode]:
        """Every episode, task by task."""
        return [Episode(task, self.first_seed + i, i) for task in self.tasks for i in range(self.episodes)]

    def environment(self) -> dict[str, Any]:
        """Options for :func:`~fathom.simulation.make_env`."""
        return {
            "image_size": self.image_size,
            "action_repeat": self.action_repeat,
            "quality": self.quality,
            "spread": self.spread,
        }

    def to_json(self) -> dict[str, Any]:
        """As it stands in a result file."""
        return asdict(self) | {"tasks": list(self.tasks)}
