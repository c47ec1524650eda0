"""Meta-World's scripted experts."""

import warnings
from typing import Any

import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from fathom.simulation.environment import Array
from fathom.simulation.metaworld.environment import MetaWorldEnv


class ScriptedExpert:
    """Solves one Meta-World task by looking at the simulator's true state."""

    def __init__(self, env: MetaWorldEnv) -> None:
        policy: Any = ENV_POLICY_MAP[f"{env.task}-v3"]
        self._policy = policy()
        self._env = env

    def __call__(self) -> Array:
        """The action for now, float32 (4,) in [-1, 1]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that their wishes exceed [-1, 1] is how these experts work
            action = self._policy.get_action(self._env.privileged())
        return np.clip(action, -1.0, 1.0).astype(np.float32)
