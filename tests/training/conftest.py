"""A dataset of four short episodes, and recipes small enough to train on it in a second."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fathom.data.features import Feature
from fathom.data.writer import DatasetWriter
from fathom.depth.depth_map import LogRange
from fathom.depth.tokenizer import DepthTokenizer, DepthTokenizerConfig
from fathom.policies.qdepth_vla import DepthConfig, QDepthVLAConfig, VisionConfig
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.training.policy import PolicyRecipe
from fathom.training.tokenizer import TokenizerRecipe, train_tokenizer

STEPS, EVERY = 6, 2
SIDE = 40  # not the encoder's size: pictures are resized on the way
FPS = 10
TRAINING = TrainingConfig(
    steps=STEPS, batch_size=4, precision="fp32", ema_decay=0.9, log_every=1, checkpoint_every=EVERY, workers=0,
    optimizer=OptimizerConfig(lr=1e-3, warmup_steps=2, cycle_steps=STEPS),
)  # fmt: skip
TOKENIZER = TokenizerRecipe(
    DepthTokenizerConfig(image_size=32, grid=8, codes=16, code_dim=12, width=16, depth_range=LogRange(0.3, 3)),
    replace(TRAINING, ema_decay=0.0),
)
POLICY = PolicyRecipe(
    QDepthVLAConfig(
        horizon=4,
        vision=VisionConfig(width=24, mlp=48, layers=2, heads=2, image_size=32, patch=8),
        vlm_width=32,
        vlm_mlp=64,
        expert_width=16,
        expert_mlp=32,
        layers=2,
        heads=4,
        head_dim=8,
        text_tokens=8,
        depth=DepthConfig(grid=8, codes=16, code_dim=12, image_size=32),
        conventions="openpi",
    ),
    TRAINING,
    depth_weight=0.1,
)
WITHOUT_DEPTH = replace(POLICY, policy=replace(POLICY.policy, depth=None))


def record(
    root: Path, *, depth: bool = True, actions: int = 3, states: int = 5, length: int = 8, wrist: bool = False
) -> Path:
    """Four episodes of eight frames, the last one for validation: a box that moves before a wall."""
    features = {
        "observation.images.main": Feature.rgb(SIDE, SIDE),
        "observation.images.main_depth": Feature.depth(SIDE, SIDE),
        "observation.state": Feature.vector(states),
        "action": Feature.vector(actions),
    }
    if wrist:
        features["observation.images.wrist"] = Feature.rgb(SIDE, SIDE)
    if not depth:
        del features["observation.images.main_depth"]
    writer = DatasetWriter(root, features, FPS)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    for number in range(4):
        random = np.random.default_rng(number)
        box = np.stack([(abs(x - 6 - 4 * t) < 5) & (abs(y - 12 - 4 * number) < 7) for t in range(length)])
        frames = {
            "observation.images.main": np.where(box[..., None], [210, 60, 30], [90, 140, 180]).astype(np.uint8),
            "observation.images.main_depth": np.where(box, 0.6, 1.2 + 0.03 * y).astype(np.float32),
            "observation.state": random.normal(size=(length, states)).astype(np.float32),
            "action": random.normal(size=(length, actions)).astype(np.float32),
        }
        frames["observation.images.wrist"] = frames["observation.images.main"][:, ::-1].copy()
        writer.stage_episode(number, {name: frames[name] for name in features}, ["open it", "push the box"][number % 2])
    return writer.finish({"train": range(3), "validation": range(3, 4)})


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="session")
def tokenizer_folder(dataset, tmp_path_factory) -> Path:
    """An undisturbed training of the tokenizer."""
    folder = tmp_path_factory.mktemp("trained") / "tokenizer"
    train_tokenizer(dataset, TOKENIZER, folder)
    return folder


@pytest.fixture
def tokenizer(tokenizer_folder) -> DepthTokenizer:
    return DepthTokenizer.load(tokenizer_folder)
