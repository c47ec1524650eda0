"""The numbers that open-pi-zero itself computed, from the same weights (recorded; see tests/golden/README.md)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fathom.config import parse_config, read_json
from fathom.data.batch import Batch, Observation
from fathom.data.normalization import Normalization, Scaling
from fathom.policies.qdepth_vla import QDepthVLA, QDepthVLAConfig
from fathom.policies.text import TextTokenizer
from fathom.policies.weights import import_open_pi_zero
from fathom.weights import load_weights

GOLDEN = Path(__file__).parents[1] / "golden"
IMAGE_TOKENS = 4


class RecordedText(nn.Module):
    """Stands for the tokenizer: the recorded ids."""

    def __init__(self, ids, valid):
        super().__init__()
        self.ids, self.valid = ids, valid

    def __call__(self, instructions, length):
        return self.ids, self.valid


@pytest.fixture(scope="module")
def cases():
    return load_file(GOLDEN / "open_pi_zero_tiny.cases.safetensors")


@pytest.fixture(scope="module")
def policy(cases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    TextTokenizer.from_instructions(["any"]).save(folder)
    import_open_pi_zero(
        GOLDEN / "open_pi_zero_tiny.weights.safetensors",
        folder / "policy",
        tokenizer=folder,
        sizes=GOLDEN / "open_pi_zero_tiny.config.json",
        depth=False,
    )
    values = read_json(folder / "policy" / "config.json", "policy")
    del values["type"]
    text = RecordedText(cases["input_ids"][:, IMAGE_TOKENS:], cases["attention_mask"][:, IMAGE_TOKENS:].bool())
    same = Scaling((0.0,) * 7, (1.0,) * 7, clip=False)
    policy = QDepthVLA(parse_config(QDepthVLAConfig, values, folder), Normalization("mean_std", same, same), text)
    load_weights(policy, folder / "policy" / "model.safetensors")
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
    monkeypatch.setattr("fathom.data.draws.Draws.normal", lambda *_: cases["noise"][:, None])
    monkeypatch.setattr("fathom.policies.flow.Flow.time_of", lambda *_: cases["t"])
    loss = policy.loss(batch_of(cases)).action
    torch.testing.assert_close(loss, cases["expected_loss"][0], atol=1e-5, rtol=0)
