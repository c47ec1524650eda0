"""Running the quickstart: each step takes up what the steps before it left in the run's folder."""

import time
from pathlib import Path

from rich.console import Console
from rich.rule import Rule

from fathom.evaluation import Result, evaluate, success_table
from fathom.recipes.quickstart import QuickstartRecipe
from fathom.report import write_report
from fathom.simulation import find_suite
from fathom.simulation.collect import collect
from fathom.simulation.demonstrations import Style
from fathom.simulation.rollout import Actor, RandomPolicy, ScriptedPolicy
from fathom.training.device import pick_device
from fathom.training.policy import train_policy
from fathom.training.settings import claim
from fathom.training.tokenizer import read_score, score_line, train_tokenizer

POLICY = "qdepth_vla"


def run_quickstart(recipe: QuickstartRecipe, folder: Path, *, compare: bool = False) -> Path:
    """Collect, tokenise, co-train, evaluate and report; run it again after an interruption and it goes on.

    Args:
        folder: becomes ``{dataset, tokenizer, policy, eval, report.html}``.
        compare: also train and evaluate the policy without depth and without sight, in ``compare/``.

    Returns:
        the report.

    Raises:
        UserError: the folder holds a run with other settings, or a step cannot be done.
    """
    console, began = Console(), time.monotonic()
    claim(folder, recipe)

    console.print(Rule("1 collect demonstrations"))
    if not (folder / "dataset").exists():
        collect(
            "metaworld",
            recipe.tasks,
            recipe.episodes_per_task,
            folder / "dataset",
            style=Style(options=(("spread", recipe.spread),)),
            console=console,
        )

    console.print(Rule("2 train the depth tokenizer"))
    tokenizer = train_tokenizer(folder / "dataset", recipe.tokenizer, folder / "tokenizer")
    console.print(score_line(read_score(folder / "tokenizer")))

    console.print(Rule("3 co-train the policy"))
    policy = train_policy(folder / "dataset", recipe.policy, folder / "policy", tokenizer)

    baselines = {kind: recipe.baseline(kind) for kind in ("pi0", "blind") if compare}
    policies: dict[str, Actor | ScriptedPolicy] = {POLICY: policy}
    for kind, changed in baselines.items():
        console.print(Rule(f"3 the same for comparison: {kind}"))
        policies[kind] = train_policy(folder / "dataset", changed, folder / "compare" / kind, tokenizer)
    width = len(find_suite(recipe.protocol.suite).robot.action_names)
    policies |= {"expert": ScriptedPolicy(), "random": RandomPolicy(width)}

    console.print(Rule("4 evaluate in closed loop"))
    for name, actor in policies.items():
        evaluate(actor, recipe.protocol, folder / "eval" / name, name=name, device=pick_device(), console=console)
    results = [Result.load(folder / "eval" / name / "results.json") for name in policies]
    console.print(success_table(results))

    console.print(Rule("5 report"))
    report = write_report(folder)
    console.print(f"the report: {report} (this call took {(time.monotonic() - began) / 60:.1f} minutes)")
    return report
