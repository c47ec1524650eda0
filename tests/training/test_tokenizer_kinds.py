"""Every kind of depth tokenizer, trained a few steps on a small dataset, scored, and killed on the way."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fathom.data.dataset import open_dataset
from fathom.data.features import Feature
from fathom.data.memory import MemoryDataset
from fathom.data.writer import DatasetWriter
from fathom.depth.depth_map import LogRange
from fathom.depth.tokenizer import DepthTokenizer, DepthTokenizerConfig
from fathom.errors import UserError
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.training.tokenizer import TokenizerRecipe, encode_all, read_score, score_line, train_tokenizer

SIDE, LENGTH = 40, 6
VQ = DepthTokenizerConfig(image_size=32, grid=8, codes=16, code_dim=12, width=16, depth_range=LogRange(0.3, 3))
KINDS = {
    "vq": VQ,
    "fsq": replace(VQ, quantizer="fsq", codes=20, levels=(5, 4)),
    "none": replace(VQ, quantizer="none"),
}
TERMS = {"vq": {"codebook", "commitment"}, "fsq": set(), "none": {"kl"}}
TRAINING = TrainingConfig(
    steps=40, batch_size=4, precision="fp32", ema_decay=0.0, log_every=1, checkpoint_every=2, workers=0,
    optimizer=OptimizerConfig(lr=3e-3, warmup_steps=2, cycle_steps=40),
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Three episodes, the last one for validation: a box that moves before a wall."""
    writer = DatasetWriter(
        tmp_path_factory.mktemp("data") / "dataset",
        {
            "observation.images.main_depth": Feature.depth(SIDE, SIDE),
            "observation.state": Feature.vector(2),
            "action": Feature.vector(2),
        },
        fps=10,
    )
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    for number in range(3):
        box = np.stack([(abs(x - 6 - 5 * t) < 5) & (abs(y - 12 - 6 * number) < 7) for t in range(LENGTH)])
        vectors = np.zeros((LENGTH, 2), np.float32)
        depth = np.where(box, 0.6, 1.2 + 0.03 * y).astype(np.float32)
        frames = {"observation.images.main_depth": depth, "observation.state": vectors, "action": vectors}
        writer.stage_episode(number, frames, "push")
    return writer.finish({"train": range(2), "validation": range(2, 3)})


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_error_and_leaves_a_score(kind, precision, dataset, tmp_path):
    training = replace(TRAINING, precision=precision)
    trained = train_tokenizer(dataset, TokenizerRecipe(KINDS[kind], training), tmp_path / "run")
    lines = log(tmp_path / "run")
    reconstruction = [line["reconstruction"] for line in lines]
    assert np.mean(reconstruction[-5:]) < 0.5 * np.mean(reconstruction[:5])
    logged = {"codebook", "commitment", "kl"} & lines[0].keys()
    assert logged == TERMS[kind] and lines[0].keys() >= {"reconstruction", "total"}

    score = read_score(tmp_path / "run")
    assert score.frames == LENGTH and score.split == "validation"
    assert (score.codebook is not None) == (kind != "none")
    assert ("perplexity" in score_line(score)) == (kind != "none")
    assert ("no codebook" in score_line(score)) == (kind == "none")
    loaded = DepthTokenizer.load(tmp_path / "run").state_dict()
    assert all(torch.equal(loaded[name], weights) for name, weights in trained.state_dict().items())


@pytest.mark.parametrize("kind", ["fsq", "none"])
def test_a_killed_run_ends_with_the_same_bits(kind, dataset, tmp_path, monkeypatch):
    """Whatever a continuous VAE draws on the way: vq has this test beside the policy's."""
    recipe = TokenizerRecipe(KINDS[kind], replace(TRAINING, steps=6))
    monkeypatch.setattr("fathom.training.tokenizer.LEAST_USAGE", 0.0)
    train_tokenizer(dataset, recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        loss, steps = DepthTokenizer.loss, iter(range(3))
        patch.setattr(DepthTokenizer, "loss", lambda self, depth: (next(steps), loss(self, depth))[1])
        with pytest.raises(StopIteration):
            train_tokenizer(dataset, recipe, tmp_path / "killed")
    train_tokenizer(dataset, recipe, tmp_path / "killed")
    whole, killed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert whole == killed


@pytest.mark.parametrize("kind", ["vq", "fsq"])
def test_codes_of_a_dataset_in_memory(kind, dataset):
    torch.manual_seed(0)
    tokenizer = DepthTokenizer(KINDS[kind]).eval()
    opened = open_dataset(dataset, cameras=(), depth=True, future=2)
    codes = encode_all(tokenizer, MemoryDataset.load(opened), batch_size=4)
    assert codes.shape == (3 * LENGTH, 64)
    for frame in (0, 7, 17):
        assert torch.equal(codes[frame], tokenizer.encode(opened.batch([frame]).depth)[0])


def test_a_continuous_tokenizer_has_no_codes_to_give(dataset):
    memory = MemoryDataset.load(open_dataset(dataset, cameras=(), depth=True))
    with pytest.raises(UserError, match="continuous VAE"):
        encode_all(DepthTokenizer(KINDS["none"]), memory)
