"""Qwen3-VL and DINOv3 as a start for training."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.policies.deepvision_vla.conftest import chat_tokenizer
from transformers import DINOv3ViTConfig, DINOv3ViTModel, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from fathom.cli.main import main
from fathom.config import parse_config
from fathom.errors import UserError
from fathom.policies.deepvision_vla import DeepVisionVLA, DeepVisionVLAConfig, ExpertConfig, PruningConfig, TowerConfig
from fathom.policies.weights.qwen3_vl import import_qwen3_vl
from fathom.weights import load_weights

CONFIG = DeepVisionVLAConfig(
    vision=TowerConfig(image_size=32, patch=4),
    expert=ExpertConfig(
        image_size=32, patch=4, width=24, heads=3, layers=3, coupled=2, kv_heads=2, pruning=PruningConfig(first_layer=0)
    ),
    horizon=4,
    layers=4,
    heads=4,
    kv_heads=2,
)


@pytest.fixture
def language(tmp_path):
    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 16,
        "num_key_value_heads": 2, "vocab_size": 264,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "mrope_section": [4, 2, 2]},
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "depth": 3, "num_heads": 2, "patch_size": 4, "out_hidden_size": 32,
        "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    torch.manual_seed(0)
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, image_token_id=100)
    Qwen3VLForConditionalGeneration(config).save_pretrained(tmp_path / "qwen")
    chat_tokenizer().save(tmp_path / "qwen")
    return tmp_path / "qwen"


@pytest.fixture
def vision(tmp_path):
    torch.manual_seed(1)
    config = DINOv3ViTConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3, patch_size=4, image_size=32,
        num_register_tokens=2, use_gated_mlp=True, hidden_act="silu",
    )  # fmt: skip
    DINOv3ViTModel(config).save_pretrained(tmp_path / "dino")
    return tmp_path / "dino"


def loaded(folder):
    values = json.loads((folder / "config.json").read_text())
    assert values.pop("type") == "deepvision_vla"
    policy = DeepVisionVLA(parse_config(DeepVisionVLAConfig, values, folder))
    load_weights(policy, folder / "model.safetensors")
    return policy


@pytest.mark.parametrize("spelling", ["model.layer.", "layer."])
def test_every_weight_is_where_it_belongs(language, vision, tmp_path, spelling):
    file = vision / "model.safetensors"
    dino = {name.replace("model.layer.", "layer."): tensor for name, tensor in load_file(file).items()}
    save_file({name.replace("layer.", spelling): tensor for name, tensor in dino.items()}, file)
    done = import_qwen3_vl(language, vision, tmp_path / "out", CONFIG)
    policy = loaded(tmp_path / "out")
    theirs = Qwen3VLForConditionalGeneration.from_pretrained(language).model
    for ours, other in (
        (policy.mixture.streams["vlm"], theirs.language_model),
        (policy.vision_tower, theirs.visual),
    ):
        expected = other.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())
    own = policy.mixture.streams["expert"].own.state_dict()
    assert own.keys() == {name.replace("layer.", "layers.") for name in dino}
    assert all(torch.equal(own[name.replace("layer.", "layers.")], tensor) for name, tensor in dino.items())
    assert torch.equal(policy.mixture.bias.values, torch.full((2,), -10.0))
    assert any("with first values" in line and "action_head, mixture.bias" in line for line in done.lines)


def test_without_a_vision_expert_it_is_the_baseline(language, tmp_path):
    import_qwen3_vl(language, None, tmp_path / "out", CONFIG)
    assert loaded(tmp_path / "out").config.expert is None


@pytest.mark.parametrize("fusion", ["early", "aligned"])
def test_an_expert_that_runs_by_itself(fusion, language, vision, tmp_path):
    """Its weights are DINOv3's; where its output is added, nothing is added to begin with."""
    config = replace(CONFIG, expert=replace(CONFIG.expert, fusion=fusion, pruning=None))
    import_qwen3_vl(language, vision, tmp_path / "out", config)
    policy = loaded(tmp_path / "out")
    own = policy.whole_expert.mixture.streams["expert"].state_dict()
    theirs = load_file(vision / "model.safetensors")
    theirs = {name.removeprefix("model.").replace("layer.", "layers."): tensor for name, tensor in theirs.items()}
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in theirs.items())
    assert bool(policy.whole_expert.project.weight.any()) == (fusion == "aligned")


def test_the_two_the_wrong_way_round(language, vision, tmp_path):
    with pytest.raises(UserError, match="'dinov3_vit' model; a 'qwen3_vl' is expected"):
        import_qwen3_vl(vision, language, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_a_missing_tensor(language, vision, tmp_path):
    file = vision / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("norm.weight")
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"missing vision/norm\.weight"):
        import_qwen3_vl(language, vision, tmp_path / "out", CONFIG)


def test_a_larger_coupling_than_the_expert_has_layers(language, vision, tmp_path):
    config = replace(CONFIG, layers=9, expert=replace(CONFIG.expert, layers=9, coupled=4))
    with pytest.raises(UserError, match=r"dino/config\.json.*only 3 layers"):
        import_qwen3_vl(language, vision, tmp_path / "out", config)


def test_the_verb(language, vision, tmp_path, capsys):
    words = ["import", "qwen3-vl", str(language), "--image-size", "32", "--horizon", "4", "--out"]
    expert = ["--vision", str(vision), "--expert-image-size", "32", "--coupled", "2", "--proprio"]
    assert main([*words, str(tmp_path / "out"), *expert]) == 0
    assert "written to" in capsys.readouterr().out
    config = loaded(tmp_path / "out").config
    assert (config.horizon, config.expert.coupled, config.expert.kv_heads, config.layers) == (4, 2, 2, 4)
    assert config.proprio and config.expert.pruning is None
    others = ["--kv-heads", "4", "--which", "first", "--bias", "0", "--seed", "1"]
    assert main([*words, str(tmp_path / "other"), *expert, *others]) == 0
    policy = loaded(tmp_path / "other")
    assert (policy.config.expert.kv_heads, policy.config.expert.which, policy.config.expert.bias) == (4, "first", 0)
    assert not policy.mixture.bias.values.any()
    assert main([*words, str(tmp_path / "early"), *expert, "--fusion", "early"]) == 0
    assert loaded(tmp_path / "early").config.expert.fusion == "early"
    capsys.readouterr()
    assert main([*words, str(tmp_path / "baseline")]) == 0
    assert "no vision expert" in capsys.readouterr().out
    assert loaded(tmp_path / "baseline").config.expert is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--coupled", "4"], "expert.coupled is 4, but the vision expert has only 3 layers"),
        (["--image-size", "30"], "vision.image_size 30 must be a multiple"),
        (["--image-size", "260"], "vision.image_size 260 must be a multiple of patch x merge 32"),
        (["--cameras", "wrist"], "the first camera must be 'main'"),
        (["--kv-heads", "3"], "expert.kv_heads is 3: the language model has 2 key heads and 4 heads"),
    ],
)
def test_what_the_verb_refuses(options, told, language, vision, tmp_path, capsys):
    words = ["import", "qwen3-vl", str(language), "--vision", str(vision), "--out", str(tmp_path / "out")]
    assert main([*words, "--expert-image-size", "32", "--image-size", "64", "--coupled", "2", *options]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
