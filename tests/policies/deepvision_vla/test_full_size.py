"""The real size, on the meta device: the same code as the small one, with as many parameters as the sources say."""

import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from fathom.policies.deepvision_vla import DeepVisionVLA, DeepVisionVLAConfig
from fathom.policies.deepvision_vla.layout import Layout
from fathom.policies.qdepth_vla import DepthConfig


@pytest.fixture(scope="module")
def policy() -> DeepVisionVLA:
    with torch.device("meta"):
        return DeepVisionVLA(DeepVisionVLAConfig())


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_each_part(policy):
    """Qwen3-VL-4B is published with 4.44 B parameters, DINOv3 ViT-H+/16 with 0.84 B; the new parts by hand."""
    layer = 2560 * 128 * (32 + 2 * 8) + 32 * 128 * 2560 + 3 * 2560 * 9728 + 2 * 2560 + 2 * 128
    vlm = policy.mixture.streams["vlm"]
    assert count(vlm) == 36 * layer + 2560 + 151_936 * 2560
    assert count(vlm) + count(policy.vision_tower) == pytest.approx(4.44e9, rel=2e-3)
    expert = policy.mixture.streams["expert"]
    assert count(expert.own) == pytest.approx(0.84e9, rel=2e-3)
    assert count(expert.alignments) == 16 * 1280 * 128 * (32 + 8 + 8 + 32)
    assert policy.mixture.bias.values.shape == (16,)
    assert count(policy.action_head) == 2560 * 2560 + 2560 + 2560 * 7 + 7


def test_the_parts_are_transformers_own(policy):
    """With the sizes that the published configurations of the two checkpoints give."""
    text = {
        "vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    }  # fmt: skip
    vision = {
        "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2560,
        "deepstack_visual_indexes": [5, 11, 17],
    }  # fmt: skip
    dino = {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
        "num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu",
    }  # fmt: skip
    with torch.device("meta"):
        qwen = Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision))
        dinov3 = DINOv3ViTModel(DINOv3ViTConfig(**dino))
    expert = policy.mixture.streams["expert"].own
    theirs = {name.replace("model.layer.", "layers."): tuple(p.shape) for name, p in dinov3.named_parameters()}
    assert {name: tuple(p.shape) for name, p in expert.named_parameters()} == theirs
    for ours, other in ((policy.mixture.streams["vlm"], qwen.language_model), (policy.vision_tower, qwen.visual)):
        shapes = {name: tuple(p.shape) for name, p in ours.named_parameters()}
        assert shapes == {name: tuple(p.shape) for name, p in other.named_parameters()}


def test_tokens_of_each_part():
    """64 image tokens for the language model, 1024 patches for the expert, 512 of them kept."""
    config = DeepVisionVLAConfig()
    assert config.vision.grid**2 == 64
    assert config.expert.grid**2 == 1024
    assert config.expert.pruning.kept(1024) == 512
    assert (config.alone, config.guiding) == (20, range(4, 20))
    assert Layout.of(config).instruction.start == 3 + 1 + 64 + 1


@pytest.mark.parametrize("grid", [8, 16])
def test_both_experts_at_once_can_be_built(grid):
    with torch.device("meta"):
        policy = DeepVisionVLA(DeepVisionVLAConfig(depth=DepthConfig(grid=grid)))
        assert policy.depth_head(torch.zeros(1, 64, 1024)).shape == (1, grid**2, 160)
    assert set(policy.mixture.streams) == {"vlm", "depth", "expert"}
