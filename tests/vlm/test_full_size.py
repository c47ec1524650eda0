"""The published sizes, on the meta device: parameters, shapes, what LoRA touches, and the memory that it takes."""

import pytest
import torch

from fathom.lora import LoRA
from fathom.vlm.config import DepthVLMConfig
from fathom.vlm.memory import memory_plan
from fathom.vlm.model import DepthVLM
from fathom.vlm.qwen import new_vlm, vision_tower

QWEN2_5_VL_7B = {
    "model_type": "qwen2_5_vl",
    "vision_config": {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
        "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "text_config": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "tie_word_embeddings": False,
}  # fmt: skip
QWEN3_VL_4B = {
    "model_type": "qwen3_vl",
    "vision_config": {
        "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2560,
        "patch_size": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17],
    },
    "text_config": {
        "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]},
    },
    "tie_word_embeddings": True,
}  # fmt: skip
PROJECTIONS = {f"self_attn.{name}_proj" for name in "qkvo"} | {f"mlp.{name}_proj" for name in ("gate", "up", "down")}


def tower_count(family: str) -> int:
    """By hand: the vision transformer without its mergers, for RGB."""
    if family == "qwen2_5_vl":  # queries, keys, values and output; gate, up and down, with biases; two norms
        block = 4 * (1280 * 1280 + 1280) + 3 * 1280 * 3420 + 2 * 3420 + 1280 + 2 * 1280
        return 32 * block + 1280 * 3 * 2 * 14 * 14
    block = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
    return 24 * block + 1024 * 3 * 2 * 16 * 16 + 1024 + 2304 * 1024


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def values(request):
    return {"qwen2_5_vl": QWEN2_5_VL_7B, "qwen3_vl": QWEN3_VL_4B}[request.param]


@pytest.fixture
def full_size(values, make):
    def build(fusion, **settings):
        processor = make("none").processor
        with torch.device("meta"):
            return DepthVLM(DepthVLMConfig(fusion=fusion, **settings), new_vlm(values), processor).to(torch.bfloat16)

    return build


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture
def family(values) -> str:
    return values["model_type"]


def test_as_many_parameters_as_published(full_size, family):
    """Qwen2.5-VL-7B has 8,292,166,656 and Qwen3-VL-4B 4,437,815,808; depth adds what a count by hand says."""
    plain = full_size("none")
    published = {"qwen2_5_vl": 8_292_166_656, "qwen3_vl": 4_437_815_808}[family]
    assert count(plain.vlm) == published
    side = plain.vlm.config.vision_config.patch_size
    width = plain.vlm.config.vision_config.hidden_size
    encoder = tower_count(family) - width * 2 * 2 * side**2  # one channel, where RGB has three
    assert count(full_size("positional")) == published
    assert count(full_size("concat")) == published + encoder
    assert count(full_size("concat", depth_tokens="packed")) == published
    assert count(full_size("rgbd")) == published + width * 2 * side**2
    level = 2 * width + width * 128 + 128 + (2 * 128 + 128 * 512 + 512 + 512 * 128 + 128)
    adapter = 2 * width + width * 128 + 128 + 4 * level + 128 * width + width + width
    assert count(full_size("adapter")) == published + encoder + adapter


def test_lora_stands_beside_every_projection_of_the_language_model_and_nothing_else(full_size):
    model = full_size("positional", lora=LoRA(rank=16))
    layers = model.vlm.config.text_config.num_hidden_layers
    touched = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A." in name}
    assert touched == {
        f"vlm.model.language_model.layers.{layer}.{name}" for layer in range(layers) for name in PROJECTIONS
    }


def test_depth_tokens_have_the_shape_that_the_merger_takes(full_size):
    model = full_size("adapter")
    tower = vision_tower(model.vlm)
    width = tower.config.hidden_size
    patches = torch.zeros(64, width, device="meta", dtype=torch.bfloat16)
    assert tower.merger(patches).shape == (16, model.vlm.config.text_config.hidden_size)
    assert model.side_adapter([patches] * 4, patches).shape == (64, width)
    depth = tower.config.depth
    assert model.side_adapter.layers == [depth // 4, depth // 2, 3 * depth // 4, depth]


def test_memory_plan_adds_up(full_size, family):
    model = full_size("concat", lora=LoRA(rank=16))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    answering, training = memory_plan(model, tokens=1000), memory_plan(model, tokens=1000, training=True)
    assert answering.weights == training.weights == 2 * count(model)
    assert training.gradients == 2 * trained and training.optimizer == 8 * trained
    cache = {"qwen2_5_vl": 2 * 28 * 4 * 128, "qwen3_vl": 2 * 36 * 8 * 128}[family]
    assert answering.cache == cache * 1000 * 2 and answering.optimizer == 0
    assert answering.total == answering.weights + answering.cache
    assert memory_plan(model, tokens=1000, batch=3, training=True).activations == 3 * training.activations
    assert str(answering).splitlines()[-1].split() == ["total", f"{answering.total / 2**30:.2f}", "GiB"]
