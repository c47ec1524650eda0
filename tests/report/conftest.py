"""A quickstart's folder with everything in it, made up in a second."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fathom.data.dataset import open_dataset
from fathom.data.features import Feature
from fathom.data.normalization import Normalization
from fathom.data.writer import DatasetWriter
from fathom.depth.depth_map import LogRange
from fathom.depth.tokenizer import DepthTokenizer, DepthTokenizerConfig
from fathom.evaluation import EpisodeResult, Result
from fathom.policies.qdepth_vla import DepthConfig, QDepthVLA, QDepthVLAConfig, VisionConfig
from fathom.policies.text import TextTokenizer

NASTY = "open <script>alert(1)</script> & the $door$"
TASKS = ("door-open", "a <script> task")
CLIP = bytes(range(256))
POLICY = QDepthVLAConfig(
    state_dim=3,
    action_dim=2,
    horizon=2,
    vision=VisionConfig(width=16, mlp=16, layers=1, heads=2, image_size=16, patch=4),
    vlm_width=16,
    vlm_mlp=16,
    expert_width=16,
    expert_mlp=16,
    layers=1,
    heads=2,
    head_dim=8,
    text_tokens=32,
    depth=DepthConfig(grid=4, codes=16, code_dim=8, image_size=16, visibility="dreamvla"),
)
SUCCESSES = {"qdepth_vla": (7, 4), "pi0": (6, 4), "blind": (1, 0), "expert": (8, 8), "random": (0, 0)}


def make_result(name: str, *successes: int, n: int = 8) -> Result:
    episodes = [
        EpisodeResult(task, 10_000 + i, i, i < won, 20, 0.5)
        for task, won in zip(TASKS, successes, strict=False)
        for i in range(n)
    ]
    return Result(name, "metaworld", {"episodes": n}, {"python": "3.x", "torch": "9.8.7"}, tuple(episodes))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its baselines; do not change it."""
    folder = tmp_path_factory.mktemp("run") / "quickstart"
    _write_dataset(folder / "dataset")
    tokenizer = _write_policy(folder)
    tokenizer.save(folder / "tokenizer")
    _write_json(
        folder / "tokenizer" / "score.json",
        {
            "error": {"abs_rel": 0.0421, "delta_1": 0.951, "edge_abs_rel": 0.235},
            "codebook": {"usage": 0.75, "perplexity": 11.6, "top_share": 0.123},
            "frames": 77,
            "split": "validation",
        },
    )
    _write_json(
        folder / "settings.json",
        {
            "tasks": TASKS,
            "episodes_per_task": 2,
            "tokenizer": {"tokenizer": {"codes": 16}},
            "policy": {"depth_weight": 0.0875},
            "protocol": {"suite": "metaworld"},
        },
    )
    for name, successes in SUCCESSES.items():
        make_result(name, *successes).save(folder / "eval" / name / "results.json")
    for task in TASKS:
        path = folder / "eval" / "qdepth_vla" / "clips" / f"{task}-00.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(CLIP)
    _write_metrics(folder / "policy", action_loss=1.0, depth_loss=2.0, depth_accuracy=0.3, depth_weight=0.1)
    _write_metrics(folder / "tokenizer", reconstruction=0.1, codebook=0.01, commitment=0.01)
    _write_metrics(folder / "compare" / "pi0", action_loss=1.1)
    return folder


def _write_dataset(root: Path) -> None:
    features = {
        "observation.images.main": Feature.rgb(32, 32),
        "observation.images.main_depth": Feature.depth(32, 32),
        "observation.state": Feature.vector(3),
        "action": Feature.vector(2),
    }
    random = np.random.default_rng(0)
    writer = DatasetWriter(root, features, fps=20)
    for number in range(4):
        frames = {
            "observation.images.main": random.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8),
            "observation.images.main_depth": random.uniform(0.4, 1.9, (5, 32, 32)).astype(np.float32),
            "observation.state": random.normal(size=(5, 3)).astype(np.float32),
            "action": random.normal(size=(5, 2)).astype(np.float32),
        }
        writer.stage_episode(number, frames, (NASTY, "push the puck")[number % 2])
    writer.finish({"train": range(2), "validation": range(2, 4)})
    counts = {TASKS[0]: {"tried": 5, "kept": 4, "frames": 44}, TASKS[1]: {"tried": 4, "kept": 4, "frames": 50}}
    _write_json(root / "meta" / "collection.json", {"validation": 1, "yield": counts})


def _write_policy(folder: Path) -> DepthTokenizer:
    torch.manual_seed(0)
    dataset = open_dataset(folder / "dataset")
    tokenizer = DepthTokenizer(
        DepthTokenizerConfig(image_size=16, grid=4, codes=16, code_dim=8, width=8, depth_range=LogRange(0.35, 2.0))
    )
    tokenizer.quantizer._codebook.initted.fill_(True)
    with torch.no_grad():
        tokenizer.quantizer._codebook.embed.normal_()  # untrained, all codes would be one
    text = TextTokenizer.from_instructions(dataset.tasks)
    normalization = Normalization.from_stats(dataset.stats)
    QDepthVLA(POLICY, normalization, text, tokenizer).eval().save(folder / "policy")
    return tokenizer


def _write_metrics(folder: Path, **first: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"step": step, **{k: v / step for k, v in first.items()}} for step in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
