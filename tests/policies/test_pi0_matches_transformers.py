"""π0 in every layout it is published in, imported: its actions and its loss are those of transformers' own model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PI0Config, PI0ForConditionalGeneration

from fathom.config import parse_config, read_json
from fathom.data.batch import Batch, Observation
from fathom.data.normalization import Normalization, Scaling
from fathom.policies.qdepth_vla import QDepthVLA, QDepthVLAConfig
from fathom.policies.text import TextTokenizer
from fathom.policies.weights import import_pi0
from fathom.weights import load_weights

IMAGE_TOKENS, WORDS = 4, 60
STATE, ACTION, HORIZON = 6, 5, 4
INNER = "paligemma_with_expert.paligemma"
OPENPI = {
    "model.vlm.language_model.": f"{INNER}.model.language_model.",
    "model.vlm.vision_tower.": f"{INNER}.model.vision_tower.vision_model.",
    "model.vlm.": f"{INNER}.model.",
    "model.dit.embed_tokens.": "paligemma_with_expert.gemma_expert.lm_head.",
    "model.dit.": "paligemma_with_expert.gemma_expert.model.",
    "embed_action_time.": "",
}
OLD_LEROBOT = {
    "model.vlm.language_model.": f"model.{INNER}.language_model.model.",
    "model.vlm.vision_tower.": f"model.{INNER}.vision_tower.vision_model.",
    "model.vlm.": f"model.{INNER}.",
    "model.dit.embed_tokens.": "model.paligemma_with_expert.gemma_expert.lm_head.",
    "model.dit.": "model.paligemma_with_expert.gemma_expert.model.",
    "embed_action_time.": "model.",
    "action_out_proj.": "model.action_out_proj.",
}


def renamed(weights: dict[str, Tensor], prefixes: dict[str, str]) -> dict[str, Tensor]:
    result = {}
    for key, value in weights.items():
        old = next((prefix for prefix in prefixes if key.startswith(prefix)), "")
        result[prefixes.get(old, "") + key.removeprefix(old)] = value.clone()
    return result


def openpi(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As openpi's conversion saves: of two tied tensors only the head is kept."""
    result = renamed(weights, OPENPI)
    result[f"{INNER}.lm_head.weight"] = result.pop(f"{INNER}.model.language_model.embed_tokens.weight")
    return result


def lerobot(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same behind a prefix, with both."""
    result = {f"model.{key}": value for key, value in openpi(weights).items()}
    head = result[f"model.{INNER}.lm_head.weight"]
    return {**result, f"model.{INNER}.model.language_model.embed_tokens.weight": head.clone()}


def newest_lerobot(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With transformers 5 the vision tower has lost a level."""
    return {key.replace(".vision_model.", "."): value for key, value in lerobot(weights).items()}


def older_lerobot(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Before version 0.4: other names, and statistics that a base model never had set."""
    result = renamed(weights, OLD_LEROBOT)
    embedding = result[f"model.{INNER}.language_model.model.embed_tokens.weight"]
    unset = torch.full((STATE,), torch.inf)
    return {
        **result,
        f"model.{INNER}.language_model.lm_head.weight": embedding.clone(),
        "normalize_inputs.buffer_observation_state.mean": unset,
        "normalize_inputs.buffer_observation_state.std": unset.clone(),
        "normalize_targets.buffer_action.mean": unset.clone(),
        "unnormalize_outputs.buffer_action.mean": unset.clone(),
    }


LAYOUTS = {
    "transformers": dict,
    "openpi": openpi,
    "lerobot": lerobot,
    "newest lerobot": newest_lerobot,
    "older lerobot": older_lerobot,
    "as transformers saves it": None,
}


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


@pytest.fixture(scope="module", params=LAYOUTS)
def ours(request, theirs, tmp_path_factory) -> QDepthVLA:
    source = tmp_path_factory.mktemp("checkpoint")
    theirs.save_pretrained(source)
    if lay_out := LAYOUTS[request.param]:
        save_file(lay_out(theirs.state_dict()), source / "model.safetensors")
    TextTokenizer.from_instructions(["open the drawer"]).save(source)
    out = source / "policy"
    imported = import_pi0(source, out, depth=False)
    assert imported.normalization is None
    return from_folder(out)


def from_folder(folder: Path) -> QDepthVLA:
    values = read_json(folder / "config.json", "policy")
    del values["type"]
    config = parse_config(QDepthVLAConfig, values, folder)
    same = [Scaling((0.0,) * width, (1.0,) * width, clip=False) for width in (STATE, ACTION)]
    policy = QDepthVLA(config, Normalization("mean_std", *same), GivenText())
    load_weights(policy, folder / "model.safetensors")
    return policy.eval()


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
    monkeypatch.setattr("fathom.data.draws.Draws.normal", lambda *_: noise[:, None])
    monkeypatch.setattr("fathom.policies.flow.Flow.time_of", lambda *_: time)
    batch = Batch(**vars(observation), actions=actions, action_is_pad=torch.zeros(2, HORIZON, dtype=torch.bool))
    torch.testing.assert_close(ours.loss(batch).action, expected, atol=1e-4, rtol=0)


def test_other_rotary_positions_and_times(theirs, case, tmp_path):
    """What a configuration can say beyond the sizes is taken over."""
    values = theirs.config.to_dict()
    values["dit_config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": 100.0}
    values["max_period"] = 8.0
    model = PI0ForConditionalGeneration(PI0Config.from_dict(json.loads(json.dumps(values)))).eval()
    model.load_state_dict(theirs.state_dict())
    model.save_pretrained(tmp_path)
    TextTokenizer.from_instructions(["open the drawer"]).save(tmp_path)
    import_pi0(tmp_path, tmp_path / "policy", depth=False)
    observation, noise = case
    expected = model.sample_actions(**their_inputs(observation), noise=noise)
    assert (expected - theirs.sample_actions(**their_inputs(observation), noise=noise)).abs().max() > 1e-2
    actions = from_folder(tmp_path / "policy").sample_actions(observation, noise)
    torch.testing.assert_close(actions, expected, atol=1e-4, rtol=0)
