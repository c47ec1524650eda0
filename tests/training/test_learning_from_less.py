"""Fewer episodes of each task, and other depth than that of the camera."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fathom.annotation.degrade import degrade
from fathom.data.batch import Batch
from fathom.depth.degradation import DepthNoise
from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.evaluation.held_out import measure_held_out
from fathom.policies.qdepth_vla import QDepthVLA
from fathom.training.policy import open_for, train_policy

from .conftest import POLICY, WITHOUT_DEPTH, record


def test_the_first_episodes_of_each_task_are_learned_from(dataset: Path, tmp_path: Path) -> None:
    """The dataset's tasks take turns: episodes 0 and 2 are of one, 1 and 3 of the other, and 3 is held out."""
    one = open_for(replace(WITHOUT_DEPTH, episodes_per_task=1), dataset)
    assert [episode.index for episode in one.episodes] == [0, 1] and len(one) == 16
    assert [episode.index for episode in open_for(WITHOUT_DEPTH, dataset).episodes] == [0, 1, 2]
    policy = train_policy(dataset, replace(WITHOUT_DEPTH, episodes_per_task=1), tmp_path / "one")
    assert policy.provenance.data["episodes"] == 2
    whole = train_policy(dataset, WITHOUT_DEPTH, tmp_path / "whole")
    assert isinstance(policy, QDepthVLA) and isinstance(whole, QDepthVLA)
    assert policy.normalization == whole.normalization, "so that their actions are in the same units"


@pytest.mark.parametrize(("count", "told"), [(2, "has 1 episodes to learn from, 2 are wanted"), (0, "at least 1")])
def test_more_than_there_are_is_told(count: int, told: str, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        train_policy(dataset, replace(WITHOUT_DEPTH, episodes_per_task=count), tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


def test_a_run_from_before_these_fields_goes_on(dataset: Path, tmp_path: Path) -> None:
    train_policy(dataset, WITHOUT_DEPTH, tmp_path)
    settings = json.loads((tmp_path / "settings.json").read_text())
    for name in ("episodes_per_task", "depth_feature"):
        del settings[name]
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    train_policy(dataset, WITHOUT_DEPTH, tmp_path)
    with pytest.raises(UserError, match="episodes_per_task"):
        train_policy(dataset, replace(WITHOUT_DEPTH, episodes_per_task=1), tmp_path)


def test_other_depth_is_learned_and_the_true_one_is_the_measure(
    tokenizer: DepthTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = record(tmp_path / "data")
    degrade(root, DepthNoise(0, 0.2, 0), name="noisy_depth")
    recipe = replace(POLICY, depth_feature="noisy_depth")
    noisy, true = open_for(recipe, root).batch([3]).depth, open_for(POLICY, root).batch([3]).depth
    assert noisy is not None and true is not None
    ratio = (noisy / true).numpy()
    assert abs(ratio.mean() - 1) > 0.01 and ratio.std() < 0.01
    policy = train_policy(root, recipe, tmp_path / "policy", tokenizer)
    assert isinstance(policy, QDepthVLA)
    perfect = []

    def true_picture(self: QDepthVLA, batch: Batch) -> object:
        assert batch.depth is not None and self.depth_tokenizer is not None
        perfect.append(len(batch))
        return self.depth_tokenizer.true_depth(batch.depth).nan_to_num(1.0)

    monkeypatch.setattr(QDepthVLA, "predict_depth", true_picture)
    measured = measure_held_out(policy, root, "validation")
    assert sum(perfect) == measured.frames == 8 and measured.depth_abs_rel == 0 and measured.depth_delta_1 == 1
    with pytest.raises(UserError, match="no depth feature 'other_depth'; there is: main_depth, noisy_depth"):
        open_for(replace(POLICY, depth_feature="other_depth"), root)


def test_the_action_error_is_that_of_the_steps_there_are(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = train_policy(dataset, WITHOUT_DEPTH, tmp_path)
    assert isinstance(policy, QDepthVLA) and policy.normalization is not None
    noises = []

    def off_by_a_quarter(self: QDepthVLA, batch: Batch, noise: object) -> object:
        noises.append(np.asarray(noise))
        scaling = policy.normalization.actions  # type: ignore[union-attr]
        inside = scaling.normalize(batch.actions) * 0.5
        wrong = scaling.unnormalize(inside + 0.25)
        wrong[batch.action_is_pad] = 1e6  # what lies past the end of the episode does not count
        batch.actions.copy_(scaling.unnormalize(inside))
        return wrong

    monkeypatch.setattr(QDepthVLA, "sample_actions", off_by_a_quarter)
    first = measure_held_out(policy, dataset, "validation")
    second = measure_held_out(policy, dataset, "validation")
    assert first == second and first.action_error == pytest.approx(0.25, abs=1e-5) and first.depth_abs_rel is None
    assert np.array_equal(noises[0], noises[1]) and noises[0].shape == (8, 4, 3)
    assert measure_held_out(policy, dataset, None, frames=5).frames == 5
