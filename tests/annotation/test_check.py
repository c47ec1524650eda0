"""Estimated depth beside measured depth: the measures, by calculation."""

import numpy as np
import pytest

from fathom.annotation import Annotation, annotate, check_depth
from fathom.annotation.check import align, flicker
from fathom.cli.main import main
from fathom.data.extend import FeatureAdder
from fathom.data.features import Feature
from fathom.errors import UserError

from .conftest import SIDE, true_depth


@pytest.fixture
def annotated(dataset, recording):
    """With the recorded depth as ``main_depth``, and as ``estimate`` its disparity, scaled and shifted."""
    annotate(dataset, Annotation("recorded", str(recording)))
    adding = FeatureAdder(
        dataset, "observation.images.estimate", Feature.depth(SIDE, SIDE, "relative_inverse"), {"by": "hand"}
    )
    for episode in adding.episodes:
        truth = true_depth(episode.index)
        values = np.where(truth > 0, 0.3 / np.where(truth > 0, truth, 1) + 0.1, 0).astype(np.float32)
        if episode.index == 2:  # one frame of one episode is wrong
            values[1] = values[1][:, ::-1]
        adding.stage(episode.index, values, {})
    adding.finish({})
    return dataset


def test_a_disparity_up_to_scale_and_shift_has_no_error(annotated):
    check = check_depth(annotated, "estimate", "main_depth", worst=2)
    assert [one.episode for one in check.episodes] == [0, 1, 2]
    first = check.episodes[0]
    assert first.abs_rel < 2e-3 and first.delta_1 == 1  # what the 12-bit codes leave
    assert (first.scale, first.shift) == pytest.approx((1 / 0.3, -0.1 / 0.3), rel=5e-3)
    assert check.episodes[2].abs_rel > 20 * first.abs_rel
    worst = check.worst[0]
    assert worst.index == sum(len(true_depth(e)) for e in range(2)) + 1  # the second frame of the third episode
    assert check.mean("abs_rel") == pytest.approx(np.mean([one.abs_rel for one in check.episodes]))


def test_alignment_is_least_squares_in_disparity():
    truth = np.array([0.5, 1.0, 2.0, 4.0])
    disparity = np.array([4.1, 2.0, 0.9, 0.6])
    counts = np.array([True, True, True, False])
    matrix = np.stack([disparity[:3], np.ones(3)], 1)
    expected = np.linalg.lstsq(matrix, 1 / truth[:3], rcond=None)[0]
    assert align(disparity, truth, counts) == pytest.approx(tuple(expected))
    with pytest.raises(UserError, match="no two pixels with different depth"):
        align(np.ones(4), truth, counts)


def test_flicker_counts_only_where_the_truth_stands_still():
    truth = np.array([[[1.0, 1.0]], [[1.0, 2.0]]])
    depth = np.array([[[1.0, 1.0]], [[1.1, 5.0]]])
    counts = np.ones(truth.shape, bool)
    assert flicker(depth, truth, counts) == pytest.approx(0.1)
    assert flicker(depth[:, :, 1:], truth[:, :, 1:], counts[:, :, 1:]) is None


def test_the_command_prints_them_and_draws_the_worst(annotated, tmp_path, capsys):
    sheet = tmp_path / "worst.png"
    command = ["annotate", str(annotated), "--check", "--name", "estimate", "--reference", "main_depth"]
    assert main([*command, "--sheet", str(sheet)]) == 0
    out = capsys.readouterr().out
    assert "episode 0: AbsRel 0.00" in out and "mean of 3 episodes" in out
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_a_reference_is_in_metres(annotated):
    with pytest.raises(UserError, match="estimate is relative depth"):
        check_depth(annotated, "main_depth", "estimate")
    with pytest.raises(UserError, match="main_depth would be compared with itself"):
        check_depth(annotated, "main_depth", "main_depth")
    with pytest.raises(UserError, match="no depth feature 'nothing'"):
        check_depth(annotated, "nothing", "main_depth")


def test_an_episode_without_depth_is_listed(annotated, monkeypatch):
    from fathom.annotation import check as module

    original = module.open_dataset

    def without(root, **options):
        dataset = original(root, **options)
        if options.get("episodes") == [1]:
            monkeypatch.setattr(dataset, "picture", lambda name, i: np.zeros((1, SIDE, SIDE), np.float32))
        return dataset

    monkeypatch.setattr(module, "open_dataset", without)
    check = check_depth(annotated, "estimate", "main_depth")
    assert set(check.skipped) == {1} and len(check.episodes) == 2
