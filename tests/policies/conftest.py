"""A policy small enough for tests."""

from dataclasses import replace

import pytest
import torch

from fathom.data.batch import Batch
from fathom.data.normalization import Normalization, Scaling
from fathom.depth.depth_map import LogRange
from fathom.depth.tokenizer import DepthTokenizer, DepthTokenizerConfig
from fathom.policies.qdepth_vla import DepthConfig, QDepthVLA, QDepthVLAConfig, VisionConfig
from fathom.policies.text import TextTokenizer

INSTRUCTIONS = ["open the drawer", "turn the faucet to the left", "press the button"]

DEPTH = DepthConfig(grid=8, codes=16, code_dim=12, image_size=32)


def tiny_config(**changes) -> QDepthVLAConfig:
    config = QDepthVLAConfig(
        state_dim=5,
        action_dim=3,
        horizon=4,
        vision=VisionConfig(width=24, mlp=48, layers=2, heads=2, image_size=32, patch=8),
        vlm_width=32,
        vlm_mlp=64,
        expert_width=16,
        expert_mlp=32,
        layers=2,
        heads=4,
        head_dim=8,
        text_tokens=10,
        depth=DEPTH,
    )
    return replace(config, **changes)


def tiny_tokenizer() -> DepthTokenizer:
    config = DepthTokenizerConfig(image_size=32, grid=8, codes=16, code_dim=12, width=16, depth_range=LogRange(0.3, 3))
    torch.manual_seed(1)
    tokenizer = DepthTokenizer(config).train()
    tokenizer.loss(torch.rand(8, 1, 32, 32) + 0.4)  # k-means gives the codebook its first codes
    return tokenizer.eval()


@pytest.fixture
def make_policy():
    def make(**changes) -> QDepthVLA:
        text = TextTokenizer.from_instructions(INSTRUCTIONS)
        config = tiny_config(vocab_size=text.vocab_size, **changes)
        normalization = Normalization(
            "quantile", Scaling((0.5,) * 5, (2.0,) * 5, clip=True), Scaling((0.1,) * 3, (0.5,) * 3, clip=True)
        )
        tokenizer = tiny_tokenizer() if config.depth else None
        torch.manual_seed(0)
        return QDepthVLA(config, normalization, text, tokenizer)

    return make


@pytest.fixture
def make_batch():
    def make(batch: int = 3, cameras=("main",), horizon: int = 4, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        return Batch(
            images={c: torch.randint(0, 256, (batch, 3, 40, 40), generator=generator).byte() for c in cameras},
            state=torch.rand(batch, 5, generator=generator),
            instruction=(INSTRUCTIONS * batch)[:batch],
            actions=torch.rand(batch, horizon, 3, generator=generator) - 0.5,
            action_is_pad=torch.zeros(batch, horizon, dtype=torch.bool),
            depth=torch.rand(batch, 1, 40, 40, generator=generator) + 0.4,
        )

    return make
