"""Every kind of depth tokenizer, trained a few steps on a small dataset, scored, and killed on the way."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fathom.cli.main import main
from fathom.data.dataset import open_dataset
from fathom.data.features import Feature
from fathom.data.memory import MemoryDataset
from fathom.data.writer import DatasetWriter
from fathom.depth.depth_map import DepthKind, LogRange
from fathom.depth.tokenizer import DepthTokenizer, DepthTokenizerConfig
from fathom.errors import UserError
from fathom.report.tokenizer_pictures import rebuild
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.training.tokenizer import (
    TokenizerRecipe,
    depth_in,
    encode_all,
    read_score,
    score_line,
    score_tokenizer,
    train_tokenizer,
)

SIDE, LENGTH = 40, 6
VQ = DepthTokenizerConfig(image_size=32, grid=8, codes=16, code_dim=12, width=16, depth_range=LogRange(0.3, 3))
KINDS = {
    "vq": VQ,
    "ema": replace(VQ, quantizer="ema"),
    "fsq": replace(VQ, quantizer="fsq", codes=20, levels=(5, 4)),
    "none": replace(VQ, quantizer="none"),
}
TERMS = {"vq": {"codebook", "commitment"}, "ema": {"commitment"}, "fsq": set(), "none": {"kl"}}
TRAINING = TrainingConfig(
    steps=40, batch_size=4, precision="fp32", ema_decay=0.0, log_every=1, checkpoint_every=2, workers=0,
    optimizer=OptimizerConfig(lr=3e-3, warmup_steps=2, cycle_steps=40),
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("data") / "dataset", boxes())


def boxes() -> list[np.ndarray]:
    """Of three episodes, in metres: a box that moves before a wall."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    moving = [
        np.stack([(abs(x - 6 - 5 * t) < 5) & (abs(y - 12 - 6 * number) < 7) for t in range(LENGTH)])
        for number in range(3)
    ]
    return [np.where(box, 0.6, 1.2 + 0.03 * y).astype(np.float32) for box in moving]


def record(root: Path, episodes: list[np.ndarray], kind: DepthKind = "metric") -> Path:
    """A dataset of depth alone, its last episode for validation."""
    writer = DatasetWriter(
        root,
        {
            "observation.images.main_depth": Feature.depth(SIDE, SIDE, kind),
            "observation.state": Feature.vector(2),
            "action": Feature.vector(2),
        },
        fps=10,
    )
    for number, depth in enumerate(episodes):
        vectors = np.zeros((len(depth), 2), np.float32)
        frames = {"observation.images.main_depth": depth, "observation.state": vectors, "action": vectors}
        writer.stage_episode(number, frames, "push")
    last = len(episodes) - 1
    return writer.finish({"train": range(last), "validation": range(last, last + 1)})


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
    assert (score.flicker is not None and "flicker" in score_line(score)) == (kind != "none")
    loaded = DepthTokenizer.load(tmp_path / "run").state_dict()
    assert all(torch.equal(loaded[name], weights) for name, weights in trained.state_dict().items())


@pytest.mark.parametrize("kind", ["ema", "fsq", "none"])
def test_a_killed_run_ends_with_the_same_bits(kind, dataset, tmp_path, monkeypatch):
    """Running means and whatever a continuous VAE draws on the way: vq has this test beside the policy's."""
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


@pytest.mark.parametrize("kind", ["vq", "ema", "fsq"])
def test_codes_of_a_dataset_in_memory(kind, dataset):
    torch.manual_seed(0)
    tokenizer = DepthTokenizer(KINDS[kind]).eval()
    opened = open_dataset(dataset, cameras=(), depth=True, future=2)
    memory = MemoryDataset.load(opened)
    codes = encode_all(tokenizer, lambda frames: depth_in(memory.batch(frames)), len(memory), at_once=4)
    assert codes.shape == (3 * LENGTH, 64)
    for frame in (0, 7, 17):
        assert torch.equal(codes[frame], tokenizer.encode(opened.batch([frame]).depth)[0])


def test_a_continuous_tokenizer_has_no_codes_to_give(dataset):
    memory = MemoryDataset.load(open_dataset(dataset, cameras=(), depth=True))
    with pytest.raises(UserError, match="continuous VAE"):
        encode_all(DepthTokenizer(KINDS["none"]), lambda frames: depth_in(memory.batch(frames)), len(memory))


@pytest.mark.parametrize("kind", ["vq", "ema", "fsq"])
def test_a_collapsed_codebook_is_not_saved(kind, tmp_path):
    """A wall that never changes has at most as many codes as there are tokens: 64 of 720."""
    wall = [np.full((LENGTH, SIDE, SIDE), 1.0, np.float32) for _ in range(3)]
    dataset = record(tmp_path / "walls", wall)
    config = replace(KINDS[kind], codes=720, levels=(10, 9, 8))
    with pytest.raises(UserError, match=r"the codebook has collapsed: only [0-9]% of 720 codes are used"):
        train_tokenizer(dataset, TokenizerRecipe(config, replace(TRAINING, steps=4)), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists() and not (tmp_path / "run" / "score.json").exists()


def test_flicker_is_measured_where_depth_stands_still(tmp_path):
    """Counted by hand on codes that the test gives: only successive frames of one episode, and patches at rest."""
    episodes = boxes()
    episodes[1][:] = episodes[1][:1]  # all of it stands still
    dataset = record(tmp_path / "dataset", episodes)
    tokenizer = DepthTokenizer(VQ).eval()
    frames = [frame for episode in episodes for frame in episode]
    code_of = iter(range(10_000))
    tokenizer.encode = lambda depth: torch.stack(  # every frame's own code: all that stands still flickers
        [torch.full((64,), next(code_of) % 16) for _ in depth]
    )
    assert score_tokenizer(tokenizer, dataset, None, frames=len(frames)).flicker == 1.0
    tokenizer.encode = lambda depth: (depth[:, 0, 2::5, 2::5].flatten(1) < 1).long()  # the box that a patch sees
    assert score_tokenizer(tokenizer, dataset, None, frames=len(frames)).flicker == 0.0
    single = record(tmp_path / "single", [np.repeat(wall[:1], 1, 0) for wall in boxes()])
    assert score_tokenizer(tokenizer, single, None, frames=9).flicker is None


def test_a_score_from_before_flicker_was_measured_is_read(dataset, tmp_path):
    old = {
        "error": {"abs_rel": 0.1, "delta_1": 0.9, "edge_abs_rel": 0.2},
        "codebook": None,
        "frames": 6,
        "split": "all",
    }
    (tmp_path / "score.json").write_text(json.dumps(old))
    score = read_score(tmp_path)
    assert score.kind == "metric" and score.flicker is None and "0.100" in score_line(score)


@pytest.fixture(scope="module")
def relative(tmp_path_factory) -> Path:
    """The same scenes as an estimator might see them: inverse depth on a scale of its own, with a hole."""
    disparities = []
    for depth in boxes():
        inverse = 1 / depth
        scaled = ((inverse - inverse.min()) / np.ptp(inverse)).clip(1 / 4095, 1)
        scaled[:, :4, :4] = 0
        disparities.append(scaled.astype(np.float32))
    return record(tmp_path_factory.mktemp("data") / "relative", disparities, "relative_inverse")


def test_relative_depth_is_learned_and_named(relative, tmp_path):
    recipe = TokenizerRecipe(replace(VQ, depth_range=None), TRAINING)
    tokenizer = train_tokenizer(relative, recipe, tmp_path / "run")
    score = read_score(tmp_path / "run")
    assert score.kind == "relative_inverse" and "of relative inverse depth" in score_line(score)
    depth = torch.stack([frame["observation.images.main_depth"] for frame in open_dataset(relative, depth=True)])
    assert (depth == 0).any() and depth.max() == 1
    target, known = tokenizer.prepare(depth)
    off = (tokenizer.reconstruct(depth) - target).abs()[known > 0].mean()
    untrained = (target[known > 0] - target[known > 0].median()).abs().mean()
    assert off < 0.5 * untrained


def test_depth_of_another_kind_is_refused(dataset, relative, tmp_path):
    for data, config, hint in (
        (relative, VQ, r"main_depth is relative inverse depth.*--tokenizer\.depth-range none$"),
        (dataset, replace(VQ, depth_range=None), r"main_depth is in metres.*--tokenizer\.depth-range\.near"),
    ):
        with pytest.raises(UserError, match=hint):
            train_tokenizer(data, TokenizerRecipe(config, TRAINING), tmp_path / "run")
        with pytest.raises(UserError, match=hint):
            score_tokenizer(DepthTokenizer(config).eval(), data, None, frames=2)
    assert not (tmp_path / "run").exists()


def test_eval_draws_a_picture(relative, tmp_path, capsys):
    """From the command line, as a user with estimated depth would."""
    small = "--image-size 32 --grid 8 --codes 16 --code-dim 12 --width 16 --depth-range none"
    options = [f"--tokenizer.{word[2:]}" if word.startswith("--") else word for word in small.split()]
    options += ["--training.steps", "12", "--training.batch-size", "4", "--training.checkpoint-every", "12"]
    folder, picture = str(tmp_path / "tokenizer"), tmp_path / "pictures" / "depth.png"
    assert main(["tokenizer", "train", str(relative), "--out", folder, *options]) == 0
    assert main(["tokenizer", "eval", folder, str(relative), "--picture", str(picture)]) == 0
    assert "relative inverse depth" in capsys.readouterr().out
    drawn = np.asarray(Image.open(picture).convert("RGB"))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 100  # depth in colours


def test_the_picture_shows_where_a_tokenizer_is_off(dataset):
    tokenizer = DepthTokenizer(VQ).eval()
    tokenizer.reconstruct = lambda depth: tokenizer.true_depth(depth) * 1.1
    pictures = rebuild({"mine": tokenizer}, open_dataset(dataset, cameras=(), depth=True), rows=2)
    assert pictures.true.shape == (2, 1, 32, 32) and pictures.kind == "metric"
    torch.testing.assert_close(pictures.error("mine"), torch.full((2, 1, 32, 32), 0.1))
    middles = open_dataset(dataset, cameras=(), depth=True).batch([LENGTH // 2, 2 * LENGTH + LENGTH // 2]).depth
    torch.testing.assert_close(pictures.true, tokenizer.true_depth(middles))
