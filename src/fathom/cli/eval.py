"""``fathom eval``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Eval:
    """Try a policy in closed loop and write the result file."""

    policy: tyro.conf.Positional[str]
    """A saved policy's folder or hub id, or `expert` or `random`."""

    out: Path
    """Where results.json and the clips go; an interrupted evaluation continues there."""

    name: str | None = None
    """What result files and tables call the policy, if not by its path."""

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

    execute: int = 4
    """Actions of each chunk that are carried out before the policy looks again."""

    perturb: str | None = None
    """Change what the policy sees (camera, lighting, table, background, distractors), how much: `lighting=0.5`."""

    spread: float | None = None
    """Meta-World only: metres in x by which objects are scattered to either side; by default its own, mostly 0.1."""

    environments: int = 8
    """Episodes that run side by side."""

    processes: int | None = None
    """Processes that run them; by default one per core."""

    sim_python: Path | None = None
    """A Python that has the simulator, where this one has not."""

    def run(self) -> int:
        from rich.console import Console

        from fathom.evaluation import Protocol, evaluate, published
        from fathom.policies import load_policy
        from fathom.simulation import find_suite
        from fathom.simulation.perturbation import Perturbation
        from fathom.simulation.rollout import Actor, RandomPolicy, ScriptedPolicy
        from fathom.training.device import pick_device

        protocol = Protocol.preset(
            self.protocol,
            self.suite,
            self.tasks,
            episodes=self.episodes,
            image_size=self.image_size,
            execute=self.execute,
            perturbation=Perturbation.parse(self.perturb) if self.perturb else None,
            options=None if self.spread is None else {"spread": self.spread},
        )
        actor: Actor | ScriptedPolicy
        if self.policy == "expert":
            actor = ScriptedPolicy()
        elif self.policy == "random":
            actor = RandomPolicy(len(find_suite(self.suite).robot.action_names))
        else:
            actor = load_policy(self.policy).to(pick_device())
        result = evaluate(
            actor,
            protocol,
            self.out,
            name=self.name or self.policy,
            environments=self.environments,
            processes=self.processes,
            sim_python=self.sim_python,
            device=pick_device(),
        )
        if table := published.beside(result):
            Console().print(table)
        return int(any(episode.error for episode in result.episodes))
