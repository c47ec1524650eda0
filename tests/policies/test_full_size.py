"""The real size, on the meta device: the same code as the small one, with as many parameters as the sources say."""

import pytest
import torch
from transformers import GemmaConfig, GemmaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from fathom.policies.qdepth_vla import DepthConfig, QDepthVLA, QDepthVLAConfig


@pytest.fixture(scope="module")
def policy() -> QDepthVLA:
    with torch.device("meta"):
        return QDepthVLA(QDepthVLAConfig())


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def gemma_layer(width: int, mlp: int, heads: int = 8, kv_heads: int = 1, dim: int = 256) -> int:
    """By hand: queries, keys and values, output, gate, up and down, two norms."""
    return width * dim * (heads + 2 * kv_heads) + heads * dim * width + 3 * width * mlp + 2 * width


def test_parameters_of_each_part(policy):
    """What is published: SigLIP 0.41 B, Gemma 1.98 B and its embeddings 0.53 B; an expert by hand."""
    vlm = policy.mixture.streams["vlm"]
    assert count(vlm.embed_tokens) == 257_216 * 2048 == 526_778_368
    assert count(vlm) - count(vlm.embed_tokens) == 18 * gemma_layer(2048, 16384) + 2048 == 1_981_884_416
    expert = 18 * gemma_layer(1024, 4096) + 1024
    assert count(policy.mixture.streams["action"]) == count(policy.mixture.streams["depth"]) == expert == 311_464_960
    layer = 4 * (1152 * 1152 + 1152) + 2 * 1152 * 4304 + 4304 + 1152 + 4 * 1152
    patches = 3 * 14 * 14 * 1152 + 1152 + 256 * 1152
    assert count(policy.vision_tower) == 27 * layer + patches + 2 * 1152 == 412_442_352
    assert count(policy.multi_modal_projector) == 1152 * 2048 + 2048 == 2_361_344


@pytest.mark.parametrize("grid", [16, 32])
def test_both_grids_of_the_paper_can_be_built(grid):
    with torch.device("meta"):
        policy = QDepthVLA(QDepthVLAConfig(depth=DepthConfig(grid=grid)))
        values = policy.depth_head(torch.zeros(1, 256, 1024))
    assert values.shape == (1, grid**2, 160)


def test_the_parts_are_transformers_own(policy):
    with torch.device("meta"):
        gemma = GemmaForCausalLM(
            GemmaConfig(
                vocab_size=257_216, hidden_size=2048, intermediate_size=16384, num_hidden_layers=18,
                num_attention_heads=8, num_key_value_heads=1, head_dim=256,
            )
        )  # fmt: skip
        siglip = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, image_size=224,
                patch_size=14, vision_use_head=False,
            )
        )  # fmt: skip
    for ours, theirs in ((policy.mixture.streams["vlm"], gemma.model), (policy.vision_tower, siglip)):
        shapes = {name: tuple(p.shape) for name, p in ours.named_parameters()}
        assert shapes == {name: tuple(p.shape) for name, p in theirs.named_parameters()}
