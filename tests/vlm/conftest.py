"""Small models of both families, and a batch with pictures of different shapes."""

import numpy as np
import pytest
import torch
from PIL import Image

from fathom.vlm.config import DepthVLMConfig
from fathom.vlm.model import DepthVLM
from fathom.vlm.small import SmallSize, small_depth_vlm

TEXTS = ("How far is the red car?", "It is 1.5 m away.", "Which one is nearer, left or right?", "left", "right")
SIZE = SmallSize(width=32, layers=2, vision_width=32, vision_layers=3, patch=4, image=32)


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def family(request) -> str:
    return request.param


@pytest.fixture
def make(family):
    """A model in evaluation mode; those of one family have the same VLM weights."""

    def build(fusion: str, **settings) -> DepthVLM:
        return small_depth_vlm(DepthVLMConfig(fusion=fusion, **settings), TEXTS, family=family, size=SIZE).eval()

    return build


@pytest.fixture
def views() -> list[tuple[Image.Image, np.ndarray]]:
    """A wide and a tall picture, each with its depth in metres."""
    rng = np.random.default_rng(0)
    sizes = [(24, 48), (40, 28)]
    return [
        (
            Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)),
            rng.uniform(0.5, 5, size).astype(np.float32),
        )
        for size in sizes
    ]


@pytest.fixture
def batch_of(views):
    """The questions of two conversations, of different lengths, in the model's own batch."""

    def build(model: DepthVLM) -> dict[str, torch.Tensor]:
        questions = [[{"role": "user", "content": text}] for text in (TEXTS[0], TEXTS[2])]
        return model.processor([image for image, _ in views], questions, [depth for _, depth in views])

    return build
