"""Running an ablation: a recipe and its variants, each trained and tried with the same data, seeds and budget."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule

from fathom.config import parse_config, read_json
from fathom.data.dataset import known_split
from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.evaluation import Protocol, evaluate
from fathom.evaluation.ablation import FULL, Row, Trial, ablation_table, compare
from fathom.evaluation.held_out import HeldOut, measure_held_out
from fathom.files import write_json
from fathom.policies import Policy, parameter_count, policy_type
from fathom.policies.depth_expert import check_fits
from fathom.recipes.variants import Variant
from fathom.report.ablation import write_ablation_report
from fathom.simulation import find_suite
from fathom.training.device import pick_device
from fathom.training.policy import PolicyRecipe, open_for, train_policy
from fathom.training.settings import check, claim, dataset_fingerprint
from fathom.weights import fingerprint


@dataclass(frozen=True)
class Ablation:
    """What is compared, and how.

    Attributes:
        recipe: the full policy.
        variants: of it.
        protocol: how every policy is tried.
        seeds: trainings of each variant. Training ``k`` has the recipe's seed ``k``, and its policy the noise of seed
            ``k``; the layouts are the same for all.
    """

    recipe: PolicyRecipe
    variants: Sequence[Variant]
    protocol: Protocol
    seeds: int = 3

    @property
    def all(self) -> list[Variant]:
        """The full policy, then its variants."""
        return [Variant(FULL, self.recipe), *self.variants]

    def __post_init__(self) -> None:
        """Raises UserError where nothing would be trained."""
        if self.seeds < 1:
            raise UserError(f"seeds = {self.seeds}: an ablation needs at least one training of each variant")


def run_ablation(
    ablation: Ablation,
    dataset: Path,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    command: str = "",
    console: Console | None = None,
    **simulation: Any,
) -> list[Row]:
    """Train and try the recipe and each variant; run it again after an interruption and it goes on.

    ``folder`` becomes ``{<variant>/seed-<k>/{policy, eval, held_out.json}, ablation.json, ablation.html}``. All
    variants have seed 0 before any has seed 1, so that what a stopped run has is balanced. The two files of results
    grow with every policy. A later call may have other variants or more seeds.

    Args:
        tokenizer: of the depth that the policies learn.
        command: noted beside the numbers.
        simulation: how :func:`~fathom.evaluation.evaluate` runs its environments, which changes no result.

    Returns:
        a row per variant, the full policy first.

    Raises:
        UserError: the folder holds another ablation, or a training or an evaluation cannot be done.
    """
    console = console or Console()
    codes = DepthTokenizer.load(tokenizer) if tokenizer else None
    _check_all(ablation, dataset, codes)
    if not simulation.get("sim_python"):
        find_suite(ablation.protocol.suite).prepare()
    made_from = {"dataset": dataset_fingerprint(dataset)}
    if codes is not None:
        made_from["depth_tokenizer"] = fingerprint(codes)
    fixed = _Fixed(ablation.recipe, ablation.protocol)
    check(folder, fixed, **made_from)
    head = {"command": command, "dataset": str(dataset), "seeds": ablation.seeds, "made_from": made_from}
    kind = policy_type(ablation.recipe.policy).kind
    trials: dict[str, list[Trial]] = {variant.name: [] for variant in ablation.all}
    rows: list[Row] = []
    cells = [
        _Cell(variant, seed, folder / variant.folder / f"seed-{seed}")
        for seed in range(ablation.seeds)
        for variant in ablation.all
    ]
    cells.sort(key=lambda cell: not cell.done)  # what was found before is written again with all that comes
    known = sum(cell.done for cell in cells)
    for place, cell in enumerate(cells, 1):
        console.print(Rule(f"seed {cell.seed}: {cell.variant.name}"))
        trials[cell.variant.name].append(cell.run(dataset, codes, ablation.protocol, console, simulation))
        if place < known:
            continue
        claim(folder, fixed, **made_from)
        rows = compare(trials, {variant.name: variant.changes for variant in ablation.all}, kind)
        found = {**head, **_found(trials, ablation), "rows": [row.to_json() for row in rows]}
        write_json(folder / "ablation.json", found)
        write_ablation_report(folder / "ablation.html", found, rows)
    console.print(ablation_table(rows, title=f"{ablation.protocol.suite}, {ablation.seeds} seeds"))
    return rows


def _check_all(ablation: Ablation, dataset: Path, tokenizer: DepthTokenizer | None) -> None:
    """Find out now, not when its turn comes after hours, that a variant cannot be trained on this data.

    Raises:
        UserError: it cannot.
    """
    for variant in ablation.all:
        try:
            open_for(variant.recipe, dataset)
            if ablation.protocol.execute > (horizon := variant.recipe.policy.horizon):
                raise UserError(f"cannot carry out {ablation.protocol.execute} actions of a chunk of {horizon}")
            if depth := variant.recipe.policy.depth:
                if tokenizer is None:
                    raise UserError("policies with depth need --tokenizer, a depth tokenizer trained on the dataset")
                check_fits(depth, tokenizer)
        except UserError as error:
            raise UserError(f"{variant.name}: {error}") from None


@dataclass(frozen=True)
class _Fixed:
    """What the folder of an ablation belongs to."""

    recipe: PolicyRecipe
    protocol: Protocol


@dataclass(frozen=True)
class _Cell:
    """One training of one variant, and what is measured of it."""

    variant: Variant
    seed: int
    folder: Path

    @property
    def done(self) -> bool:
        """Whether it has been trained and tried."""
        return (self.folder / "eval" / "results.json").is_file()

    def run(
        self,
        dataset: Path,
        tokenizer: DepthTokenizer | None,
        protocol: Protocol,
        console: Console,
        simulation: Mapping[str, Any],
    ) -> Trial:
        recipe = self.variant.recipe
        recipe = replace(recipe, training=replace(recipe.training, seed=self.seed))
        policy = train_policy(dataset, recipe, self.folder / "policy", tokenizer if recipe.policy.depth else None)
        result = evaluate(
            policy,
            replace(protocol, noise_seed=self.seed),
            self.folder / "eval",
            name=self.variant.name,
            device=pick_device(),
            console=console,
            **simulation,
        )
        return Trial(self.seed, fingerprint(policy), result, self._held_out(policy, dataset), parameter_count(policy))

    def _held_out(self, policy: Policy, dataset: Path) -> HeldOut | None:
        """As measured before, or now; ``None`` where all episodes were learned from."""
        path, split = self.folder / "held_out.json", known_split(dataset, "validation")
        if path.is_file():
            return parse_config(HeldOut, read_json(path, "measurement"), path)
        if split is None:
            return None
        measured = measure_held_out(policy, dataset, split)
        write_json(path, asdict(measured))
        return measured


def _found(trials: Mapping[str, list[Trial]], ablation: Ablation) -> dict[str, Any]:
    """The policies that there are; the fingerprint is that of all their weights."""
    weights = {name: {str(trial.seed): trial.weights for trial in tried} for name, tried in trials.items()}
    return {
        "fingerprint": sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()[:16],
        "protocol": ablation.protocol.to_json(),
        "recipe": asdict(ablation.recipe),
        "variants": {v.name: {"changes": dict(v.changes), "weights": weights[v.name]} for v in ablation.all},
    }
