"""Meta-World's scripted experts, and the noise that makes their demonstrations teach recovery."""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fathom.simulation.metaworld import MetaWorldEnv

Array = NDArray[Any]


class ScriptedExpert:
    """Solves one Meta-World task by looking at the simulator's true state."""

    def __init__(self, task: str) -> None:
        from metaworld.policies import ENV_POLICY_MAP  # slow to import, and a plan of noise needs none of it

        policy: Any = ENV_POLICY_MAP[f"{task}-v3"]
        self._policy = policy()

    def __call__(self, env: "MetaWorldEnv") -> Array:
        """The action for now, float32 (4,) in [-1, 1]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that their wishes exceed [-1, 1] is how these experts work
            action = self._policy.get_action(env.privileged())
        return np.clip(action, -1.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class ExpertNoise:
    """Disturbs the hand of an expert in runs of a few actions, so that demonstrations visit states off its path.

    Only what is *executed* is disturbed; the label stays what the expert wanted to do there (DART, Laskey et al. 2017).

    Attributes:
        std: of the constant offset on x, y, z during a noisy run, in units of the action.
        share: of runs that are noisy.
        hold: the longest run, in actions; lengths are uniform on 1..hold.
    """

    std: float = 0.4
    share: float = 0.5
    hold: int = 4

    def offsets(self, length: int, rng: np.random.Generator) -> Array:
        """float32 (length, 4) to add to the executed actions; the gripper is left alone."""
        rows: list[Array] = []
        while len(rows) < length:
            noisy = rng.random() < self.share
            offset = np.append(rng.normal(0.0, self.std, 3) * noisy, 0.0).astype(np.float32)
            rows.extend([offset] * int(rng.integers(1, self.hold + 1)))
        return np.stack(rows[:length])
