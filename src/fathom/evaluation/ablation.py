"""What an ablation found: one policy and its variants, trained with the same seeds and tried in the same episodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import mean
from typing import Any

import numpy as np
from rich.table import Table

from fathom.evaluation.held_out import HeldOut
from fathom.evaluation.published import ablation_of
from fathom.evaluation.results import Result
from fathom.evaluation.statistics import Rate, SeedSpread, paired_difference, paired_mean, wilson

FULL = "full"
"""The recipe as it is, which every variant is compared with."""


@dataclass(frozen=True)
class Trial:
    """One training of one variant.

    Attributes:
        seed: of the training and of the policy's noise.
        weights: fingerprint of the trained policy.
        result: in closed loop.
        held_out: ``None`` for a dataset without held-out episodes.
        parameters: of the policy, its frozen depth tokenizer left out.
    """

    seed: int
    weights: str
    result: Result
    held_out: HeldOut | None
    parameters: int = 0


@dataclass(frozen=True)
class Row:
    """One variant over all of its seeds.

    Attributes:
        variant: its name.
        seeds: of its trainings; what is given per seed is in their order.
        n: episodes of all seeds together.
        successes: of them.
        success: their share with its Wilson interval, as if all were independent.
        success_per_seed: where the spread between trainings shows.
        difference: success minus that of ``full`` over the seeds that both have, see
            :func:`~fathom.evaluation.statistics.paired_difference`; ``None`` for ``full`` itself.
        action_error, depth_abs_rel: see :class:`HeldOut`, per seed; empty where not measured.
        action_error_difference, depth_abs_rel_difference: minus those of ``full`` over the seeds that both have, see
            :func:`~fathom.evaluation.statistics.paired_mean`; ``None`` where fewer than two have.
        paper: what the policy's paper has for this variant, see :func:`~fathom.evaluation.published.ablation_of`.
        parameters: see :class:`Trial`.
    """

    variant: str
    seeds: tuple[int, ...]
    n: int
    successes: int
    success: Rate
    success_per_seed: tuple[float, ...]
    difference: Rate | None
    action_error: tuple[float, ...]
    depth_abs_rel: tuple[float, ...]
    action_error_difference: Rate | None
    depth_abs_rel_difference: Rate | None
    paper: float | None
    parameters: int

    def to_json(self) -> dict[str, Any]:
        """As it stands in ``ablation.json``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value._asdict() if isinstance(value, Rate) else value for name, value in values.items()}


def compare(
    trials: Mapping[str, Sequence[Trial]], changes: Mapping[str, Mapping[str, str]], kind: str = "qdepth_vla"
) -> list[Row]:
    """A row per variant that has been tried at all.

    Args:
        trials: of each variant, by its name; ``full`` among them.
        changes: the fields of the recipe that each variant changes, and their values.
        kind: of the full policy.
    """
    trials = {name: sorted(tried, key=lambda trial: trial.seed) for name, tried in trials.items()}
    full = trials.get(FULL, ())
    spread = SeedSpread.of([np.array([_solved(trial) for trial in tried]) for tried in trials.values() if tried])
    return [
        _row(name, tried, full, spread, ablation_of(changes[name], kind)) for name, tried in trials.items() if tried
    ]


def ablation_table(rows: Sequence[Row], title: str = "Ablation") -> Table:
    """The rows for a terminal, with the paper's numbers at the right."""
    table = Table(title=title)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == HEADINGS[0] else "right")
    for row in rows:
        table.add_row(*cells(row))
    return table


HEADINGS = (
    "variant",
    "success",
    "per seed",
    "difference to full",
    "action error",
    "depth AbsRel",
    "paper",
    "parameters",
)
"""Over the columns of :func:`cells`."""


def cells(row: Row) -> tuple[str, ...]:
    """A row in words; points are percentage points."""
    rate, of = row.success, f"{row.successes}/{row.n}"
    shift = row.difference
    return (
        row.variant,
        f"{100 * rate.value:.1f} % ({of}, {100 * rate.low:.0f}-{100 * rate.high:.0f})",
        " ".join(f"{100 * value:.0f}" for value in row.success_per_seed),
        "" if shift is None else f"{100 * shift.value:+.1f} ({100 * shift.low:+.1f} to {100 * shift.high:+.1f})",
        _spread(row.action_error, row.action_error_difference),
        _spread(row.depth_abs_rel, row.depth_abs_rel_difference),
        "" if row.paper is None else f"{row.paper:.1f}",
        f"{row.parameters / 1e6:.2f} M",
    )


def _row(name: str, tried: Sequence[Trial], full: Sequence[Trial], spread: SeedSpread, paper: float | None) -> Row:
    outcomes = [_solved(trial) for trial in tried]
    n, successes = sum(map(len, outcomes)), sum(map(sum, outcomes))
    return Row(
        variant=name,
        seeds=tuple(trial.seed for trial in tried),
        n=n,
        successes=successes,
        success=wilson(successes, n),
        success_per_seed=tuple(mean(own) for own in outcomes),
        difference=None if name == FULL else _difference(tried, full, spread),
        action_error=_errors(tried, "action_error"),
        depth_abs_rel=_errors(tried, "depth_abs_rel"),
        action_error_difference=_error_difference(name, tried, full, "action_error"),
        depth_abs_rel_difference=_error_difference(name, tried, full, "depth_abs_rel"),
        paper=paper,
        parameters=tried[0].parameters,
    )


def _difference(tried: Sequence[Trial], full: Sequence[Trial], spread: SeedSpread) -> Rate | None:
    """Over the seeds and episodes that both have."""
    ours, theirs = ({trial.seed: _by_episode(trial.result) for trial in trials} for trials in (tried, full))
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        return None
    episodes = list(ours[seeds[0]])
    a, b = (np.array([[of[seed][episode] for episode in episodes] for seed in seeds]) for of in (ours, theirs))
    return paired_difference(a, b, [task for task, _ in episodes], spread)


def _by_seed(tried: Sequence[Trial], error: str) -> dict[int, float]:
    """An error of :class:`HeldOut`, where it was measured."""
    found = {trial.seed: getattr(trial.held_out, error, None) for trial in tried}
    return {seed: value for seed, value in found.items() if value is not None}


def _errors(tried: Sequence[Trial], error: str) -> tuple[float, ...]:
    return tuple(_by_seed(tried, error).values())


def _error_difference(name: str, tried: Sequence[Trial], full: Sequence[Trial], error: str) -> Rate | None:
    ours, theirs = _by_seed(tried, error), _by_seed(full, error)
    both = [seed for seed in ours if seed in theirs]
    if name == FULL or len(both) < 2:
        return None
    return paired_mean([ours[seed] - theirs[seed] for seed in both])


def _solved(trial: Trial) -> list[bool]:
    return [episode.success for episode in trial.result.episodes]


def _by_episode(result: Result) -> dict[tuple[str, int], bool]:
    return {(episode.task, episode.init_state): episode.success for episode in result.episodes}


def _spread(values: Sequence[float], difference: Rate | None) -> str:
    """The mean and between which values it lies, then the difference to ``full``."""
    if not values:
        return ""
    between = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
    shift = "" if difference is None else "\n{:+.3f} ({:+.3f} to {:+.3f})".format(*difference)
    return f"{mean(values):.3f}{between}{shift}"
