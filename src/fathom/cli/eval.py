"""``fathom eval``."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Eval:
    """Try a policy in closed loop and write the result file."""

    policy: tyro.conf.Positional[str]
    """A saved policy's folder, or `expert` or `random`."""

    out: Path
    """Where results.json and the clips go; an interrupted evaluation continues there."""

    tasks: tuple[str, ...]
    """The suite's tasks, by name."""

    suite: str = "metaworld"
    """The simulator."""

    episodes: int = 20
    """Episodes per task."""

    execute: int = 4
    """Actions of each chunk that are carried out before the policy looks again."""

    spread: float | None = None
    """Metres in x by which objects are scattered to either side; by default Meta-World's own, mostly 0.1."""

    def run(self) -> int:
        from fathom.evaluation import Protocol, evaluate
        from fathom.policies import load_policy
        from fathom.simulation.rollout import Actor, RandomPolicy, ScriptedPolicy
        from fathom.training.device import pick_device

        protocol = Protocol(self.suite, self.tasks, episodes=self.episodes, execute=self.execute, spread=self.spread)
        baselines: dict[str, Actor | ScriptedPolicy] = {"expert": ScriptedPolicy(), "random": RandomPolicy()}
        actor = baselines.get(self.policy) or load_policy(self.policy).to(pick_device())
        result = evaluate(actor, protocol, self.out, name=self.policy, device=pick_device())
        return int(any(episode.error for episode in result.episodes))
