"""What counts when a tokenizer meets depth of another simulator."""

import depth_transfer
import pytest
import torch

from fathom.data.batch import Batch
from fathom.depth.depth_map import LogRange
from fathom.depth.tokenizer import DepthTokenizer, DepthTokenizerConfig


@pytest.fixture
def tokenizer() -> DepthTokenizer:
    config = DepthTokenizerConfig(image_size=32, grid=8, width=16, codes=8, depth_range=LogRange(1.0, 2.0))
    return DepthTokenizer(config).eval()


def batch(depth: torch.Tensor) -> Batch:
    n = len(depth)
    return Batch(
        images={},
        state=torch.zeros(n, 1),
        instruction=["go"] * n,
        actions=torch.zeros(n, 1, 1),
        action_is_pad=torch.zeros(n, 1, dtype=torch.bool),
        depth=depth,
    )


def test_only_pixels_within_the_range_count(tokenizer: DepthTokenizer) -> None:
    depth = torch.full((2, 1, 32, 32), 1.5)
    depth[:, :, :16] = 5.0
    depth[0, :, 31] = torch.nan
    guess = torch.full((1, 1, 32, 32), 1.8)
    score = depth_transfer.score_mean(guess, tokenizer, [batch(depth)])
    assert score.within == pytest.approx((2 * 16 * 32 - 32) / (2 * 32 * 32))
    assert score.abs_rel == pytest.approx(0.2, abs=1e-5)
    assert score.delta_1 == 1


def test_a_perfect_guess_has_no_error(tokenizer: DepthTokenizer) -> None:
    depth = torch.linspace(1.1, 1.9, 32).repeat(1, 1, 32, 1)
    score = depth_transfer.score_mean(depth, tokenizer, [batch(depth)])
    assert score.abs_rel == pytest.approx(0, abs=1e-6)
    assert score.within == 1


def test_folders_have_names() -> None:
    with pytest.raises(SystemExit):
        depth_transfer.main(["--data", "demos"])
