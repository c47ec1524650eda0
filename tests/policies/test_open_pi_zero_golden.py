"""The numbers that open-pi-zero itself computed, from the same weights (recorded; see tests/golden/README.md)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fathom.data.batch import Batch, Observation
from fathom.data.normalization import Normalization, Scaling
from fathom.policies.qdepth_vla import QDepthVLA, QDepthVLAConfig, VisionConfig

GOLDEN = Path(__file__).parents[1] / "golden"
PREFIXES = {
    "vision_tower.vision_model.": "vision_tower.",
    "multi_modal_projector.linear.": "multi_modal_projector.",
    "embed_tokens.": "mixture.streams.vlm.embed_tokens.",
    "joint_model.mixtures.vlm.": "mixture.streams.vlm.",
    "joint_model.mixtures.action.": "mixture.streams.action.",
}


class RecordedText(nn.Module):
    """Stands for the tokenizer: the recorded ids; their unused places hold zeros in the recorded embedding."""

    def __init__(self, ids, valid, pad):
        super().__init__()
        self.ids, self.valid, self.pad = ids, valid, pad

    def __call__(self, instructions, length):
        return self.ids, self.valid


@pytest.fixture(scope="module")
def cases():
    return load_file(GOLDEN / "open_pi_zero_tiny.cases.safetensors")


@pytest.fixture(scope="module")
def policy(cases):
    sizes = json.loads((GOLDEN / "open_pi_zero_tiny.config.json").read_text())
    tower = sizes["siglip"]
    config = QDepthVLAConfig(
        state_dim=sizes["proprio_dim"],
        action_dim=sizes["action_dim"],
        horizon=sizes["horizon"],
        vision=VisionConfig(
            tower["width"], tower["mlp"], tower["layers"], tower["heads"], tower["image_size"], tower["patch_size"]
        ),
        vlm_width=sizes["vlm"]["width"],
        vlm_mlp=sizes["vlm"]["mlp"],
        expert_width=sizes["expert"]["width"],
        expert_mlp=sizes["expert"]["mlp"],
        layers=sizes["layers"],
        heads=sizes["heads"],
        kv_heads=sizes["kv_heads"],
        head_dim=sizes["head_dim"],
        vocab_size=sizes["vocab_size"],
        depth=None,
        softcap=sizes["attention_softcap"],
        flow_steps=sizes["num_inference_steps"],
    )
    images = (cases["input_ids"] == sizes["image_token_index"]).sum(1).unique().item()
    text = cases["input_ids"][:, images:]
    same = Scaling((0.0,) * 7, (1.0,) * 7, clip=False)
    config_text = RecordedText(text, cases["attention_mask"][:, images:].bool(), sizes["pad_token_id"])
    policy = QDepthVLA(config, Normalization("mean_std", same, same), config_text)
    weights = {}
    for key, value in load_file(GOLDEN / "open_pi_zero_tiny.weights.safetensors").items():
        if not key.startswith("joint_model.mixtures.proprio."):  # tied to the action expert
            old = next((prefix for prefix in PREFIXES if key.startswith(prefix)), "")
            weights[PREFIXES.get(old, "") + key.removeprefix(old)] = value
    result = policy.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys
    # The language model's output is never read: open-pi-zero leaves out what only that would need.
    last = f"mixture.streams.vlm.layers.{sizes['layers'] - 1}."
    needless = {"mixture.streams.vlm.norm.weight"} | {k for k in policy.state_dict() if k.startswith(last)}
    assert set(result.missing_keys) <= needless
    return policy.eval()


def batch_of(cases):
    return Batch(
        images={"main": (cases["pixel_values"] + 1) / 2},
        state=cases["proprio"][:, 0],
        instruction=["recorded"] * 2,
        actions=cases["actions"],
        action_is_pad=torch.zeros(2, 4, dtype=torch.bool),
    )


def test_actions_are_open_pi_zeros(policy, cases):
    batch = batch_of(cases)
    observation = Observation(batch.images, batch.state, batch.instruction)
    actions = policy.sample_actions(observation, noise=cases["noise"])
    torch.testing.assert_close(actions, cases["expected_actions"], atol=1e-5, rtol=0)


def test_loss_is_open_pi_zeros(policy, cases, monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda *_, **__: cases["noise"])
    monkeypatch.setattr("fathom.policies.flow.Flow.sample_time", lambda *_: cases["t"])
    loss = policy.loss(batch_of(cases)).action
    torch.testing.assert_close(loss, cases["expected_loss"][0], atol=1e-5, rtol=0)
