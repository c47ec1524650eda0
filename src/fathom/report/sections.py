"""The report's sections: each a function of the run, empty where its part of the run is missing."""

import json
import math
import shlex
from collections.abc import Mapping
from typing import Any

from fathom.data.dataset import known_split
from fathom.depth.metrics import DepthError
from fathom.evaluation.results import OVERALL, versions
from fathom.mixture import Visibility
from fathom.policies import parameter_count
from fathom.policies.qdepth_vla import QDepthVLA
from fathom.simulation import SUITES

from . import depth_pictures
from .figures import Line, curves, to_svg
from .html import (
    COLOUR_OF,
    clip,
    dot,
    panel,
    paragraph,
    section,
    success_cell,
    table,
    text,
    visibility_table,
)
from .run import OURS, Run, label
from .verdict import comparisons, verdict

HELD_OUT = "validation"
"""The split of the dataset that nothing was trained on."""

_STREAM_COLOURS = {"depth": "green", "proprio": "orange", "action": "orange", "expert": "purple"}
"""Of a block, by its name up to the camera's; the language model's own blocks are blue."""

FLOW_ERROR = "mean squared error"

_DEPTH_LOSS = {
    "codes": "Depth cross-entropy (nats/token)",
    "latents": "Depth latents (mean squared error)",
    "pixels": "Depth pixels (mean absolute error)",
}


def verdict_of(run: Run) -> str:
    """The run in one sentence, and how the policy compares with every other."""
    said = verdict(run.results)
    if not said:
        return paragraph("This run has not been evaluated yet.", "verdict")
    items = [f"<li>{dot(_colour(name))}{text(line)}</li>" for name, line in comparisons(run.results).items()]
    if not items:
        return paragraph(said, "verdict")
    note = (
        "Intervals tell what chance among episodes can do. What is trained was trained once: another training "
        "seed would move its rate too, and no interval here counts that."
    )
    return paragraph(said, "verdict") + f'<ul class="plain">{"".join(items)}</ul>' + paragraph(note, "note")


def success(run: Run) -> str:
    """Success per task and overall, for every policy."""
    if not run.results:
        return ""
    summaries = {name: result.summary for name, result in run.results.items()}
    tasks = dict.fromkeys(task for summary in summaries.values() for task in summary if task != OVERALL)
    rows = [
        [text(task), *(success_cell(s[task], _colour(name)) if task in s else "" for name, s in summaries.items())]
        for task in (*tasks, OVERALL)
    ]
    broken = sum(episode.error is not None for result in run.results.values() for episode in result.episodes)
    return section(
        "Success in closed loop",
        paragraph(
            "Share of episodes solved, on layouts that no demonstration has. Below it successes of episodes and the "
            "95 % Wilson interval in percent, which the thin line on the bar marks."
        ),
        table(["task", *(text(label(name)) for name in summaries)], rows, "success", total=True),
        paragraph(f"{broken} episodes broke off with an error and count as failures.", "note") if broken else "",
    )


def clips(run: Run) -> str:
    """The first filmed roll-out of each task."""
    if OURS not in run.results:
        return ""
    result, shown = run.results[OURS], {}
    for episode in result.episodes:
        path = run.folder / "eval" / OURS / "clips" / f"{episode.task}-{episode.init_state:02d}.mp4"
        if episode.task not in shown and path.is_file():
            instruction = SUITES[result.suite].instructions.get(episode.task, episode.task)
            shown[episode.task] = clip(path.read_bytes(), instruction, episode.success)
    if not shown:
        return ""
    told = f"The first episode of each task, as {label(OURS)} sees it, with the instruction that it is given."
    return section("Roll-outs", paragraph(told), f'<div class="clips">{"".join(shown.values())}</div>')


def depth(run: Run) -> str:
    """True and predicted depth on held-out frames."""
    dataset = run.folder / "dataset"
    if run.policy is None or not run.policy.config.depth or not dataset.is_dir() or not known_split(dataset, HELD_OUT):
        return ""
    pictures = depth_pictures.predict(run.policy, dataset, HELD_OUT)
    bounds = pictures.depth_range
    within = f", within the tokenizer's range of {bounds.near:g} to {bounds.far:g} m" if bounds else ""
    return section(
        "Depth that the policy predicts",
        paragraph(
            "Frames of held-out episodes. The policy sees the camera's picture alone; the true depth is the "
            "simulator's, and its reconstruction from the tokenizer's codes is what the policy learns to predict. "
            f"Over {pictures.frames} such frames the prediction has {_error(pictures.error)}{within}."
        ),
        f'<div class="wide depth">{to_svg(depth_pictures.figure(pictures.rows, metric=bounds is not None))}</div>',
    )


def visibility(run: Run) -> str:
    """Who reads whom, as the trained policy has it."""
    if run.policy is None:
        return ""
    table, counts = run.policy.mixture.visibility, run.policy.config.tokens
    tokens = {block: counts[block] for block in table.blocks}
    depth, named = run.policy.config.depth, isinstance(run.policy, QDepthVLA)
    return section(
        f"Who reads whom: {depth.visibility if depth else 'pi0'} visibility" if named else "Who reads whom",
        paragraph(
            "A row's tokens read the filled columns in every layer; beside each name its number of tokens. The depth "
            "tokens come from the image before language touches it, and only the actions read them."
            if _only_actions_read_depth(table)
            else "A row's tokens read the filled columns in every layer; beside each name its number of tokens."
        ),
        visibility_table(tokens, visibility_cells(table), {b: _block_colour(b) for b in tokens}),
        paragraph("Colours tell apart what a vision-language model reads, the experts, and the actions.", "note"),
    )


def visibility_cells(visibility: Visibility) -> list[list[int]]:
    """For each block (row) and each block (column): 0 unread, 1 read, 2 read causally."""
    blocks = visibility.blocks
    return [[visibility.sees(q, k) + visibility.sees_causally(q, k) for k in blocks] for q in blocks]


def training(run: Run) -> str:
    """Losses over the training steps, the policies' on top of each other."""
    panels = [
        _policies(run, f"Action loss ({_action_error(run)})", "action_loss"),
        _policies(run, _DEPTH_LOSS[_target(run)], "depth_loss", guess=_target(run) == "codes"),
        _policies(run, "Right depth tokens (%)", "depth_accuracy", scale=100),
        _policies(run, "Weight λ of the depth loss", "depth_weight", only=OURS),
        _policies(run, "Alignment with the vision expert (weighted)", "alignment_loss"),
        _tokenizer(run),
    ]
    if not any(panels):
        return ""
    of = "flow's velocity on normalised actions" if _action_error(run) == FLOW_ERROR else "normalised actions"
    told = (
        f"Means over the batches since the point before. The action loss is the error of the {of}; the depth loss "
        "counts in the sum with weight λ."
    )
    return section("Training", paragraph(told), f'<div class="panels">{"".join(panels)}</div>')


def demonstrations(run: Run) -> str:
    """How many demonstrations were tried and kept."""
    if run.collection is None:
        return ""
    rows = [
        [text(task), f"{kept} of {tried}", f"{100 * kept / tried:.0f} %", f"{frames / kept:.0f} frames"]
        for task, (tried, kept, frames) in (
            (task, (count["tried"], count["kept"], count["frames"])) for task, count in run.collection["yield"].items()
        )
    ]
    return section(
        "Demonstrations",
        paragraph(
            "By the simulator's scripted experts, disturbed on purpose so that they show how to recover; only "
            f"successful episodes are kept. {run.collection['validation']} of each task "
            f"{'is' if run.collection['validation'] == 1 else 'are'} held out."
        ),
        table(["task", "kept", "yield", "mean length"], rows, "short"),
    )


def tokenizer(run: Run) -> str:
    """The depth tokenizer's score, and what each number means."""
    if run.score is None:
        return ""
    error, use = run.score.error, run.score.codebook
    codes = run.settings["tokenizer"]["tokenizer"]["codes"]
    rows = [
        ["AbsRel", f"{error.abs_rel:.3f}", "Mean error relative to the true depth; 0 is perfect."],
        ["δ1", f"{100 * error.delta_1:.1f} %", "Share of pixels within a factor of 1.25 of the true depth."],
        [
            "AbsRel at edges",
            f"{error.edge_abs_rel:.3f}",
            "The same error where depth jumps: blur shows here.",
        ],
    ]
    if use:
        rows += [
            ["codes used", f"{100 * use.usage:.0f} %", f"Share of the {codes} codes that occur at all."],
            [
                "perplexity",
                f"{use.perplexity:.0f}",
                f"How many equally frequent codes would vary as much; at most {codes}.",
            ],
            [
                "top code",
                f"{100 * use.top_share:.1f} %",
                "Share of the most frequent code; near 100 % nothing is said.",
            ],
        ]
    told = f"The depth tokenizer's own limit: {run.score.frames} held-out frames, encoded and decoded again."
    return section("Depth tokenizer", paragraph(told), table(["", "", "what it means"], rows, "facts"))


def configuration(run: Run) -> str:
    """Every setting, the versions, and the commands."""
    recorded = next(iter(run.results.values())).versions if run.results else versions()
    rows = [[text(name), text(version)] for name, version in recorded.items()]
    parts = [
        every_setting(run.settings),
        f"<details><summary>Versions</summary>{table(['package', 'version'], rows)}</details>",
    ]
    if run.policy is not None:
        count = parameter_count(run.policy) / 1e6
        parts.insert(0, paragraph(f"The policy has {count:.1f} million parameters."))
    return section("Configuration", *parts)


def every_setting(settings: Mapping[str, Any]) -> str:
    """All settings of a run, to unfold."""
    shown = text(json.dumps(settings, indent=2))
    return f"<details><summary>Every setting of this run</summary><pre>{shown}</pre></details>"


def command(run: Run) -> str:
    """How to make such a run, and this page."""
    compare = (" --toy" if run.settings.get("name") == "toy" else "") + (" --compare" if run.compared else "")
    folder = shlex.quote(str(run.folder))
    lines = f"fathom quickstart{compare} --out {folder}\nfathom report {folder}"
    told = "The first command makes such a run and its report, the second writes this page anew."
    return section("Make it again", paragraph(told), f"<pre>{text(lines)}</pre>")


def _policies(run: Run, title: str, name: str, *, scale: float = 1, guess: bool = False, only: str = "") -> str:
    lines = [
        Line(label(policy), _colour(policy), metrics[name][0], [scale * value for value in metrics[name][1]])
        for policy, metrics in run.metrics.items()
        if policy != "tokenizer" and name in metrics and only in ("", policy)
    ]
    codes = run.settings["tokenizer"]["tokenizer"]["codes"]
    guide = (math.log(codes), f"a guess among {codes} codes") if guess else None
    return panel(title, curves(lines, guide=guide)) if lines else ""


def _action_error(run: Run) -> str:
    """What the action loss of the run's policy is: a flow has the error of its velocity, a single pass that of its
    chunk."""
    return FLOW_ERROR if run.policy is None or isinstance(run.policy, QDepthVLA) else "mean absolute error"


def _block_colour(block: str) -> str:
    return _STREAM_COLOURS.get(block.partition("_")[0], "blue")


def _target(run: Run) -> str:
    """What the policy's depth expert is asked for."""
    depth = run.settings["policy"]["policy"]["depth"] if "policy" in run.settings["policy"] else None
    return depth["target"] if depth else "codes"


def _tokenizer(run: Run) -> str:
    metrics = run.metrics.get("tokenizer", {})
    # Equation 2's codebook and commitment terms differ in their gradients alone: their values are the same.
    names = {"reconstruction": ("reconstruction", "blue"), "commitment": ("codebook and commitment", "orange")}
    names |= {"kl": ("Kullback-Leibler", "orange")}
    lines = [Line(*look, *metrics[name]) for name, look in names.items() if name in metrics]
    return panel("Tokenizer losses (logarithmic)", curves(lines, log=True)) if lines else ""


def _only_actions_read_depth(table: Visibility) -> bool:
    return [block for block in table.blocks if "depth" in table.reads[block].split()] == ["depth", "action"]


def _error(error: DepthError) -> str:
    return f"AbsRel {error.abs_rel:.3f} and δ1 {100 * error.delta_1:.1f} %"


def _colour(policy: str) -> str:
    return COLOUR_OF.get(policy, "quiet")
