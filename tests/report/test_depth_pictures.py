"""The depth pictures, and the error that stands beside them."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fathom.data.dataset import open_dataset
from fathom.depth.metrics import depth_error
from fathom.policies import load_policy
from fathom.policies.qdepth_vla import QDepthVLA
from fathom.report.depth_pictures import draw, predict


@pytest.fixture
def policy(finished: Path) -> QDepthVLA:
    policy = load_policy(finished / "policy")
    assert isinstance(policy, QDepthVLA)
    return policy


def test_frames_come_from_the_split_one_of_each_task(finished: Path, policy: QDepthVLA) -> None:
    held_out = open_dataset(finished / "dataset", depth=True, split="validation")
    pictures = predict(policy, finished / "dataset", "validation", rows=2)
    assert [row.instruction for row in pictures.rows] == [held_out[2]["task"], held_out[7]["task"]]
    for row, frame in zip(pictures.rows, (held_out[2], held_out[7]), strict=True):
        assert np.array_equal(row.image, frame["observation.images.main"].movedim(0, -1).numpy())
        batch = held_out.batch([int(frame["index"]) - 10])
        torch.testing.assert_close(row.depth[2], policy.predict_depth(batch)[0])
        assert not torch.equal(row.depth[1], row.depth[2])  # the tokenizer's reconstruction is something else


def test_the_error_is_that_of_the_predictions(finished: Path, policy: QDepthVLA) -> None:
    held_out = open_dataset(finished / "dataset", depth=True, split="validation")
    batch = held_out.batch(range(len(held_out)))
    assert batch.depth is not None and policy.depth_tokenizer is not None
    target, measured = policy.depth_tokenizer.prepare(batch.depth)
    true = policy.depth_tokenizer.config.depth_range.denormalize(target)
    expected = depth_error(policy.predict_depth(batch), true, measured > 0)
    pictures = predict(policy, finished / "dataset", "validation")
    assert pictures.frames == len(held_out) == 10
    assert pictures.error.abs_rel == pytest.approx(expected.abs_rel, rel=1e-4)
    assert pictures.error.delta_1 == pytest.approx(expected.delta_1, rel=1e-4)


def test_it_draws_a_picture(finished: Path, policy: QDepthVLA) -> None:
    rows = predict(policy, finished / "dataset", "validation", rows=1).rows
    picture = Image.open(BytesIO(draw(rows, dpi=50)))
    assert picture.format == "PNG" and picture.width == 360
