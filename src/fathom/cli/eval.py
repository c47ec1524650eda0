"""``fathom eval``."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from fathom.cli.trying import Trying


@dataclass(frozen=True, kw_only=True)
class Eval(Trying):
    """Try a policy in closed loop and write the result file."""

    policy: tyro.conf.Positional[str]
    """A saved policy's folder or hub id, or `expert` or `random`."""

    out: Path | None = None
    """Where results.json and the clips go, by default `runs/eval/POLICY-SUITE`; an interrupted evaluation continues."""

    name: str | None = None
    """What result files and tables call the policy, if not by its path."""

    perturb: str | None = None
    """Change what the policy sees (camera, lighting, table, background, distractors), how much: `lighting=0.5`."""

    def run(self) -> int:
        from rich.console import Console

        from fathom.evaluation import evaluate, published
        from fathom.policies import load_policy
        from fathom.simulation import find_suite
        from fathom.simulation.perturbation import Perturbation
        from fathom.simulation.rollout import Actor, RandomPolicy, ScriptedPolicy
        from fathom.training.device import pick_device

        protocol = self.to_protocol(perturbation=Perturbation.parse(self.perturb) if self.perturb else None)
        actor: Actor | ScriptedPolicy
        if self.policy == "expert":
            actor = ScriptedPolicy()
        elif self.policy == "random":
            actor = RandomPolicy(len(find_suite(self.suite).robot.action_names))
        else:
            actor = load_policy(self.policy).to(pick_device())
        name = self.name or self.policy
        result = evaluate(
            actor, protocol, self.out or self._default_out(), name=name, device=pick_device(), **self.simulation
        )
        if table := published.beside(result):
            Console().print(table)
        return int(any(episode.error for episode in result.episodes))

    def _default_out(self) -> Path:
        """A folder for each policy, suite and perturbation."""
        policy = (self.name or self.policy).strip("/.").replace("/", "_")
        parts = (policy, self.suite, *([self.perturb] if self.perturb else []))
        return Path("runs", "eval", "-".join(parts))
