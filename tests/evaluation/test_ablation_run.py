"""The ablation runner: in which order, how it goes on, and what it writes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from torch import nn

from fathom.cli.main import main
from fathom.data.features import Feature
from fathom.data.writer import DatasetWriter
from fathom.errors import UserError
from fathom.evaluation import Protocol
from fathom.evaluation.held_out import HeldOut
from fathom.evaluation.results import EpisodeResult, Result
from fathom.policies.qdepth_vla import QDepthVLAConfig, VisionConfig
from fathom.recipes import POLICY_RECIPES, ablation
from fathom.recipes.ablation import Ablation, run_ablation
from fathom.recipes.variants import Variant
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.training.policy import PolicyRecipe

SIDE = 32
RECIPE = PolicyRecipe(
    QDepthVLAConfig(
        horizon=4,
        vision=VisionConfig(width=24, mlp=48, layers=1, heads=2, image_size=32, patch=8),
        vlm_width=32,
        vlm_mlp=64,
        expert_width=16,
        expert_mlp=32,
        layers=1,
        heads=4,
        head_dim=8,
        text_tokens=8,
        depth=None,
        conventions="openpi",
    ),
    TrainingConfig(steps=2, batch_size=4, precision="fp32", optimizer=OptimizerConfig(lr=1e-3, warmup_steps=1)),
)
BLIND = Variant("blind=true", replace(RECIPE, policy=replace(RECIPE.policy, blind=True)), {"policy.blind": "true"})
LESS = Variant("episodes_per_task=1", replace(RECIPE, episodes_per_task=1), {"episodes_per_task": "1"})
PROTOCOL = Protocol("metaworld", ("reach", "push"), episodes=2, execute=2, image_size=SIDE)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    features = {
        "observation.images.main": Feature.rgb(SIDE, SIDE),
        "observation.state": Feature.vector(4),
        "action": Feature.vector(4),
    }
    writer = DatasetWriter(tmp_path_factory.mktemp("data") / "dataset", features, 10)
    for number in range(4):
        random = np.random.default_rng(number)
        frames = {
            "observation.images.main": random.integers(0, 255, (6, SIDE, SIDE, 3), dtype=np.uint8),
            "observation.state": random.normal(size=(6, 4)).astype(np.float32),
            "action": random.uniform(-1, 1, (6, 4)).astype(np.float32),
        }
        writer.stage_episode(number, frames, ["reach", "push"][number % 2])
    return writer.finish({"train": range(3), "validation": range(3, 4)})


class Work:
    """Stands for training and evaluation, notes what was asked for, and may be killed."""

    def __init__(self) -> None:
        self.trained: list[tuple[str, int]] = []
        self.tried: list[tuple[str, int]] = []
        self.kill_at: int | None = None

    def train(self, dataset: Path, recipe: PolicyRecipe, folder: Path, tokenizer: Any = None) -> nn.Module:
        if not (folder / "config.json").is_file():
            if len(self.trained) == self.kill_at:
                raise KeyboardInterrupt
            self.trained.append((folder.parts[-3], recipe.training.seed))
            folder.mkdir(parents=True)
            (folder / "config.json").write_text("{}")
        policy = nn.Linear(1, 1)
        nn.init.constant_(policy.weight, hash((recipe.policy.blind, recipe.training.seed)) % 1000)
        nn.init.zeros_(policy.bias)
        return policy

    def evaluate(self, policy: nn.Module, protocol: Protocol, folder: Path, *, name: str, **_: Any) -> Result:
        if not (folder / "results.json").is_file():
            self.tried.append((name, protocol.noise_seed))
        won = 2 if name == "full" else protocol.noise_seed
        episodes = tuple(EpisodeResult(e.task, e.seed, e.index, e.index < won, 5, 0.1) for e in protocol.plan())
        result = Result(name, protocol.suite, protocol.to_json(), {}, episodes)
        result.save(folder / "results.json")
        return result


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    work = Work()
    monkeypatch.setattr(ablation, "train_policy", work.train)
    monkeypatch.setattr(ablation, "evaluate", work.evaluate)
    monkeypatch.setattr(ablation, "measure_held_out", lambda *_: HeldOut(1, 0.5))
    yield work


def run(dataset: Path, folder: Path, *variants: Variant, seeds: int = 2, **changes: Any) -> Any:
    asked = Ablation(changes.pop("recipe", RECIPE), variants, changes.pop("protocol", PROTOCOL), seeds)
    return run_ablation(asked, dataset, folder, console=Console(quiet=True), **changes)


EVERY = [(name, seed) for seed in (0, 1) for name in ("full", "blind=true", "episodes_per_task=1")]


def test_all_variants_have_one_seed_before_any_has_the_next(dataset: Path, work: Work, tmp_path: Path) -> None:
    rows = run(dataset, tmp_path / "run", BLIND, LESS, command="fathom ablate …")
    assert work.trained == work.tried == EVERY
    assert [row.variant for row in rows] == ["full", "blind=true", "episodes_per_task=1"]
    assert rows[0].successes == rows[0].n == 8 and rows[1].success_per_seed == (0, 0.5)
    assert rows[1].difference is not None and rows[1].difference.value == -0.75
    found = json.loads((tmp_path / "run" / "ablation.json").read_text())
    assert found["rows"] == [json.loads(json.dumps(row.to_json())) for row in rows]
    assert found["command"] == "fathom ablate …" and found["variants"]["blind=true"]["changes"] == BLIND.changes
    assert found["variants"]["full"]["weights"].keys() == {"0", "1"} and len(found["fingerprint"]) == 16
    page = (tmp_path / "run" / "ablation.html").read_text()
    assert (
        "blind=true" in page
        and found["fingerprint"] in page
        and "-75.0" in page
        and "http" not in page.split("<svg")[0]
    )


def test_more_variants_never_make_the_results_less(dataset: Path, work: Work, tmp_path: Path) -> None:
    run(dataset, tmp_path / "run", BLIND)
    work.kill_at = len(work.trained) + 1
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tmp_path / "run", BLIND, LESS)
    rows = json.loads((tmp_path / "run" / "ablation.json").read_text())["rows"]
    assert {row["variant"]: row["seeds"] for row in rows} == {
        "full": [0, 1],
        "blind=true": [0, 1],
        "episodes_per_task=1": [0],
    }


@pytest.mark.parametrize("kill_at", [0, 2, 5])
def test_a_killed_run_goes_on_and_repeats_nothing(kill_at: int, dataset: Path, work: Work, tmp_path: Path) -> None:
    work.kill_at = kill_at
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tmp_path / "run", BLIND, LESS)
    assert work.tried == EVERY[:kill_at]
    path = tmp_path / "run" / "ablation.json"
    if kill_at:
        seen = json.loads(path.read_text())["rows"]
        assert sum(row["n"] for row in seen) == 4 * kill_at, "what there is can be read already"
    work.kill_at = kill_at + 1
    if kill_at + 1 < len(EVERY):
        with pytest.raises(KeyboardInterrupt):
            run(dataset, tmp_path / "run", BLIND, LESS)
        assert sum(row["n"] for row in json.loads(path.read_text())["rows"]) == 4 * (kill_at + 1)
    work.kill_at = None
    rows = run(dataset, tmp_path / "run", BLIND, LESS)
    assert work.trained == work.tried == EVERY and sum(row.n for row in rows) == 24


def test_seeds_and_variants_can_be_added(dataset: Path, work: Work, tmp_path: Path) -> None:
    run(dataset, tmp_path / "run", BLIND, seeds=1)
    run(dataset, tmp_path / "run", BLIND, LESS)
    assert sorted(work.trained) == sorted(EVERY), "nothing is trained twice"


def test_another_ablation_is_refused_before_anything_is_trained(dataset: Path, work: Work, tmp_path: Path) -> None:
    run(dataset, tmp_path / "run", seeds=1)
    with pytest.raises(UserError, match=r"other settings \(protocol.episodes is 2 there and 3 here\)"):
        run(dataset, tmp_path / "run", BLIND, protocol=replace(PROTOCOL, episodes=3))
    longer = replace(RECIPE, training=replace(RECIPE.training, steps=3))
    with pytest.raises(UserError, match=r"recipe.training.steps is 2 there and 3 here"):
        run(dataset, tmp_path / "run", BLIND, recipe=longer)
    assert len(work.trained) == 1


def test_what_cannot_be_trained_is_told_before_anything_is(dataset: Path, work: Work, tmp_path: Path) -> None:
    with_depth = Variant("depth", replace(RECIPE, policy=replace(RECIPE.policy, depth=QDepthVLAConfig().depth)))
    many = Variant("episodes_per_task=2", replace(RECIPE, episodes_per_task=2))
    for variant, told in (
        (with_depth, "depth: .*has no depth feature"),
        (many, "episodes_per_task=2: .*'push' has 1 episodes to learn from, 2 are wanted"),
    ):
        with pytest.raises(UserError, match=told):
            run(dataset, tmp_path / "run", variant)
    with pytest.raises(UserError, match="full: cannot carry out 8 actions of a chunk of 4"):
        run(dataset, tmp_path / "run", protocol=replace(PROTOCOL, execute=8))
    with pytest.raises(UserError, match="at least one training"):
        run(dataset, tmp_path / "run", seeds=0)
    assert not work.trained and not (tmp_path / "run").exists()


def test_the_command(
    dataset: Path, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(POLICY_RECIPES, "tiny", lambda: RECIPE)
    words = ["ablate", "tiny", "--dataset", str(dataset), "--out", str(tmp_path / "run"), "--tasks", "reach"]
    words += ["--seeds", "1", "--episodes", "2", "--execute", "2"]
    assert main([*words, "--vary", "blind=true", "--training.steps", "3"]) == 0
    assert work.trained == [("full", 0), ("blind=true", 0)]
    found = json.loads((tmp_path / "run" / "ablation.json").read_text())
    assert found["recipe"]["training"]["steps"] == 3 and found["protocol"]["tasks"] == ["reach"]
    assert "blind=true" in capsys.readouterr().out
    assert main([*words, "--vary", "bilnd=true"]) == 2
    assert "did you mean policy.blind" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_real_ablation(dataset: Path, tmp_path: Path) -> None:
    """Trained, tried in the simulator and measured on held-out frames, twice the same."""
    one = run(dataset, tmp_path / "one", BLIND, protocol=replace(PROTOCOL, tasks=("reach",)), seeds=1, processes=1)
    two = run(dataset, tmp_path / "two", BLIND, protocol=replace(PROTOCOL, tasks=("reach",)), seeds=1, processes=1)
    assert one == two and [row.n for row in one] == [2, 2]
    assert all(len(row.action_error) == 1 and 0 < row.action_error[0] < 2 for row in one)
    assert one[0].action_error != one[1].action_error
    weights = [json.loads((tmp_path / name / "ablation.json").read_text())["fingerprint"] for name in ("one", "two")]
    assert weights[0] == weights[1]
    measured = tmp_path / "one" / "full" / "seed-0" / "held_out.json"
    assert json.loads(measured.read_text())["frames"] == 6, "every frame of the validation episode"
    before = measured.stat().st_mtime_ns
    again = run(dataset, tmp_path / "one", BLIND, protocol=replace(PROTOCOL, tasks=("reach",)), seeds=1, processes=1)
    assert again == one and measured.stat().st_mtime_ns == before
