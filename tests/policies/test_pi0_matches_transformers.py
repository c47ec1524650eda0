"""The ``openpi`` convention without depth is transformers' own pi-zero, from the same weights."""

import pytest
import torch
from transformers import PI0Config, PI0ForConditionalGeneration

from fathom.data.batch import Batch, Observation
from fathom.data.normalization import Normalization, Scaling
from fathom.policies.qdepth_vla import QDepthVLA, QDepthVLAConfig, VisionConfig

IMAGE_TOKENS, TEXT_TOKENS, WORDS = 4, 5, 60
STATE, ACTION, HORIZON = 6, 5, 4
THEIRS_TO_OURS = {
    "model.vlm.vision_tower.": "vision_tower.",
    "model.vlm.multi_modal_projector.linear.": "multi_modal_projector.",
    "model.vlm.language_model.": "mixture.streams.vlm.",
    "model.dit.": "mixture.streams.action.",
    "embed_action_time.state_proj.": "proprio_encoder.",
    "embed_action_time.action_in_proj.": "action_encoder.linear_1.",
    "embed_action_time.action_time_mlp_in.": "action_encoder.linear_2.",
    "embed_action_time.action_time_mlp_out.": "action_encoder.linear_3.",
    "action_out_proj.": "action_decoder.",
}
UNUSED = "model.dit.embed_tokens.weight"  # the action expert reads no words


class GivenText:
    """Stands for the tokenizer: fixed ids, the second row two tokens shorter."""

    ids = torch.tensor([[2, 17, 33, 9, 5], [2, 41, 5, 0, 0]])
    valid = ids != 0

    def __call__(self, instructions, length):
        return self.ids, self.valid


@pytest.fixture(scope="module")
def theirs() -> PI0ForConditionalGeneration:
    shared = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8}
    text = {"model_type": "gemma", "hidden_size": 32, "intermediate_size": 64, "vocab_size": WORDS, **shared}
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_use_head": False,
    }  # fmt: skip
    config = PI0Config(
        vlm_config={
            "model_type": "paligemma", "text_config": text, "vision_config": vision, "projection_dim": 32,
            "image_token_id": WORDS,
        },
        dit_config={"model_type": "gemma", "hidden_size": 16, "intermediate_size": 32, **shared},
        chunk_size=HORIZON, max_state_dim=STATE, max_action_dim=ACTION, num_inference_steps=10,
    )  # fmt: skip
    model = PI0ForConditionalGeneration(config).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():  # large enough that every part matters
        torch.nn.init.normal_(parameter, std=0.15)
    return model


@pytest.fixture(scope="module")
def ours(theirs) -> QDepthVLA:
    config = QDepthVLAConfig(
        state_dim=STATE, action_dim=ACTION, horizon=HORIZON, vision=VisionConfig(24, 48, 2, 2, 28, 14),
        vlm_width=32, vlm_mlp=64, expert_width=16, expert_mlp=32, layers=2, heads=4, kv_heads=1, head_dim=8,
        vocab_size=WORDS, text_tokens=TEXT_TOKENS, depth=None, conventions="openpi",
    )  # fmt: skip
    same = [Scaling((0.0,) * width, (1.0,) * width, clip=False) for width in (STATE, ACTION)]
    policy = QDepthVLA(config, Normalization("mean_std", *same), GivenText())
    policy.load_state_dict({our_name(key): value for key, value in theirs.state_dict().items() if key != UNUSED})
    return policy.eval()


def our_name(key: str) -> str:
    prefix = next(prefix for prefix in THEIRS_TO_OURS if key.startswith(prefix))
    return THEIRS_TO_OURS[prefix] + key.removeprefix(prefix)


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(1)
    observation = Observation(
        {"main": torch.rand(2, 3, 28, 28, generator=generator)}, torch.randn(2, STATE, generator=generator), [""] * 2
    )
    return observation, torch.randn(2, HORIZON, ACTION, generator=generator)


def their_inputs(observation: Observation) -> dict[str, torch.Tensor]:
    image = torch.full((2, IMAGE_TOKENS), WORDS)
    return {
        "state": observation.state,
        "input_ids": torch.cat([image, GivenText.ids], 1),
        "attention_mask": torch.cat([torch.ones_like(image), GivenText.valid.long()], 1),
        "pixel_values": observation.images["main"][:, None] * 2 - 1,
        "pixel_attention_mask": torch.ones(2, 1, dtype=torch.bool),
    }


def test_the_actions_are_theirs(theirs, ours, case):
    observation, noise = case
    expected = theirs.sample_actions(**their_inputs(observation), noise=noise)
    assert (expected - noise).abs().mean() > 0.1  # the flow goes somewhere
    torch.testing.assert_close(ours.sample_actions(observation, noise), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_loss_is_theirs(theirs, ours, case, monkeypatch):
    observation, noise = case
    actions, time = torch.rand(2, HORIZON, ACTION), torch.tensor([0.2, 0.9])
    expected = theirs(**their_inputs(observation), noise=noise, timestep=time, actions=actions).loss
    monkeypatch.setattr(torch, "randn", lambda *_, **__: noise)
    monkeypatch.setattr("fathom.policies.flow.Flow.sample_time", lambda *_: time)
    batch = Batch(**vars(observation), actions=actions, action_is_pad=torch.zeros(2, HORIZON, dtype=torch.bool))
    torch.testing.assert_close(ours.loss(batch).action, expected, atol=1e-4, rtol=0)
