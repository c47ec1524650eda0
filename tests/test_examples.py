"""The examples run, from a checkpoint and a dataset on disk to a policy that acts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from fathom.policies import load_policy
from fathom.policies.text import TextTokenizer

ROOT = Path(__file__).parents[1]
DATASET = ROOT / "tests" / "golden" / "lerobot_v3_video"


@pytest.fixture
def paligemma(tmp_path) -> Path:
    """A PaliGemma in miniature, as transformers saves it, with its picture as large as the real one's."""
    text = TextTokenizer.from_instructions(["pick up the bowl", "open it"])
    config = PaliGemmaConfig(
        text_config={
            "model_type": "gemma", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": text.vocab_size,
        },
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 224, "patch_size": 14, "vision_use_head": False,
        },
        projection_dim=32,
    )  # fmt: skip
    torch.manual_seed(0)
    PaliGemmaForConditionalGeneration(config).save_pretrained(tmp_path / "paligemma")
    text.save(tmp_path / "paligemma")
    return tmp_path / "paligemma"


@pytest.mark.slow
def test_finetune_imported(paligemma, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, ROOT / "examples" / "finetune_imported.py", paligemma, DATASET, "--out", out]
    options = ["--steps", "4", "--batch-size", "2", "--expert-width", "16"]
    done = subprocess.run([*map(str, command), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    policy = load_policy(out / "policy")
    assert policy.config.depth and policy.config.vlm_width == 32
    assert policy.provenance.licence == "gemma"
    predicted, recorded = (
        torch.tensor(json.loads(line.split(maxsplit=1)[1]))
        for line in done.stdout.splitlines()
        if line.startswith(("predicted", "recorded"))
    )
    assert predicted.shape == recorded.shape == (4, policy.config.action_dim)
    assert (out / "depth.png").read_bytes().startswith(b"\x89PNG")
