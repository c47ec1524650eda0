"""Without a vision expert: QwenVLA-OFT, against transformers' own Qwen3-VL."""

import numpy as np
import pytest
import torch
from transformers import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from fathom.data.batch import Whole
from fathom.policies.deepvision_vla.layout import Layout

from .conftest import observation_of

CAMERAS = ("main", "wrist")
IMAGE = 100  # a byte that no instruction here has


@pytest.fixture
def pair(make_policy):
    """A policy and transformers' model with the same weights, with norms and embeddings that count."""
    policy = make_policy(expert=None, prompt="chat", cameras=CAMERAS).eval()
    config = Qwen3VLConfig(
        text_config=policy.config.qwen("vlm").to_dict(),
        vision_config=policy.config.vision.qwen(policy.config.vlm_width).to_dict(),
        image_token_id=IMAGE,
    )
    theirs = Qwen3VLModel(config).eval()
    torch.manual_seed(1)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    policy.vision_tower.load_state_dict(theirs.visual.state_dict())
    policy.mixture.streams["vlm"].load_state_dict(theirs.language_model.state_dict())
    return policy, theirs


def inputs_as_transformers_has_them(policy, observation):
    """Its own image processor, and ids with a placeholder for each image token."""
    processor = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_resize=False
    )
    pictures = [observation.images[camera][row].numpy() for row in range(len(observation)) for camera in CAMERAS]
    images = processor(
        [np.asarray(picture) for picture in pictures], return_tensors="pt", input_data_format="channels_first"
    )
    inputs = policy.prepare(observation)
    opening, before, behind = inputs.words.split([3, 1, 1], 1)
    image = torch.full((len(observation), policy.config.vision.grid**2), IMAGE)
    ids = torch.cat([opening, *(part for _ in CAMERAS for part in (before, image, behind)), inputs.text], 1)
    valid = torch.cat([torch.ones_like(ids[:, : -inputs.text.shape[1]]).bool(), inputs.text_valid], 1)
    return {
        "input_ids": ids,
        "attention_mask": valid.long(),
        "mm_token_type_ids": (ids == IMAGE).int(),
        "pixel_values": images["pixel_values"],
        "image_grid_thw": images["image_grid_thw"],
    }


def small(batch):
    """Pictures of the tower's own size, so that nothing is resized."""
    return {camera: picture[..., :32, :32] for camera, picture in batch.images.items()}


def test_the_prompt_is_transformers_own(pair, make_batch, outputs_of):
    """Two cameras, Qwen's template, DeepStack, and instructions of different lengths."""
    policy, theirs = pair
    batch = make_batch(cameras=CAMERAS)
    observation = observation_of(batch)
    observation = type(observation)(small(batch), batch.state, batch.instruction)
    given = inputs_as_transformers_has_them(policy, observation)
    valid = given["attention_mask"].bool()
    assert not valid.all()
    with torch.no_grad():
        expected = theirs(**given).last_hidden_state
    ours = outputs_of(policy, observation)["prompt"]
    torch.testing.assert_close(ours[valid], expected[valid], atol=1e-5, rtol=1e-5)


def test_positions_are_transformers_own(pair, make_batch):
    policy, theirs = pair
    batch = make_batch(cameras=CAMERAS)
    observation = type(observation_of(batch))(small(batch), batch.state, batch.instruction)
    given = inputs_as_transformers_has_them(policy, observation)
    expected, deltas = theirs.get_rope_index(
        given["input_ids"], given["mm_token_type_ids"], given["image_grid_thw"], attention_mask=given["attention_mask"]
    )
    valid = given["attention_mask"].bool()
    prompt, action = Layout.of(policy.config).positions(policy.prepare(observation).text_valid, 4)
    assert torch.equal(prompt[valid], expected.permute(1, 2, 0)[valid])
    # What would be generated next stands behind the last valid token.
    following = valid.sum(1) + deltas[:, 0]
    assert torch.equal(action, (following[:, None, None] + torch.arange(4)[None, :, None]).expand(-1, -1, 3))


def test_actions_are_zeros_that_read_each_other_both_ways(pair, make_batch, outputs_of):
    """Against transformers' language model with a mask written out by hand."""
    policy, theirs = pair
    batch = make_batch(cameras=CAMERAS)
    observation = type(observation_of(batch))(small(batch), batch.state, batch.instruction)
    given = inputs_as_transformers_has_them(policy, observation)
    ids, valid, horizon = given["input_ids"], given["attention_mask"].bool(), policy.config.horizon
    with torch.no_grad():
        vision = theirs.get_image_features(given["pixel_values"], given["image_grid_thw"])
        embedded = theirs.get_input_embeddings()(ids).masked_scatter(
            (ids == IMAGE)[..., None], torch.cat(vision.pooler_output)
        )
        places = torch.cat(Layout.of(policy.config).positions(policy.prepare(observation).text_valid, horizon), 1)
        length = ids.shape[1]
        seen = torch.ones(length + horizon, length + horizon).tril().bool()
        seen[length:] = True
        seen = seen & torch.nn.functional.pad(valid, (0, horizon), value=True)[:, None, None, :]
        expected = theirs.language_model(
            inputs_embeds=torch.nn.functional.pad(embedded, (0, 0, 0, horizon)),
            attention_mask=torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min),
            position_ids=places.permute(2, 0, 1),
            visual_pos_masks=torch.nn.functional.pad(ids == IMAGE, (0, horizon)),
            deepstack_visual_embeds=[torch.cat(features) for features in vision.deepstack_features],
        ).last_hidden_state
    ours = outputs_of(policy, observation)["action"]
    torch.testing.assert_close(ours, expected[:, length:], atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_mean_absolute_error_of_the_chunk(make_policy, make_batch):
    policy, batch = make_policy(expert=None).eval(), make_batch()
    pad = torch.zeros(3, 4, dtype=torch.bool)
    pad[0, 2:] = True
    wanted = ((batch.actions - 0.1) / 0.5).clamp(-1, 1)
    with torch.no_grad():
        given = policy.chunk(policy.prepare(observation_of(batch)))
        loss = policy.loss(type(batch)(**{**vars(batch), "action_is_pad": pad})).action
    expected = (given - wanted).abs()[~pad].mean()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)


def test_losses_of_parts_add_up_to_that_of_the_whole(make_policy, make_batch):
    policy, batch = make_policy(expert=None).eval(), make_batch(batch=4)
    batch.action_is_pad[1, 1:] = True
    with torch.no_grad():
        parts = sum(policy.loss(part, whole=Whole.of(batch)).action for part in batch.split(2))
        torch.testing.assert_close(parts, policy.loss(batch).action, atol=1e-6, rtol=1e-5)


def test_proprio_is_read_only_where_it_is_asked_for(make_policy, make_batch):
    batch = make_batch()
    other = type(observation_of(batch))(batch.images, batch.state + 0.5, batch.instruction)
    for proprio in (False, True):
        policy = make_policy(expert=None, proprio=proprio).eval()
        same = torch.equal(policy.sample_actions(observation_of(batch)), policy.sample_actions(other))
        assert same != proprio
