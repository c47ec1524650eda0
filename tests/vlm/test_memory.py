"""The memory plan against what autograd keeps, at toy size."""

import pytest
import torch

from fathom.lora import LoRA
from fathom.vlm.config import DepthVLMConfig
from fathom.vlm.memory import memory_plan
from fathom.vlm.small import SmallSize, small_depth_vlm

from .conftest import TEXTS


def bytes_kept(model, batch) -> int:
    """Of all storages that the backward pass will need, but for the model's own weights."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, or its place would be given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**batch)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.fixture
def measured(family, views):
    """Bytes that a model of some layers keeps for one sequence, and the plan for it."""

    def build(config, layers, checkpointing=False):
        size = SmallSize(width=64, layers=layers, vision_width=32, vision_layers=layers, patch=4, image=64)
        model = small_depth_vlm(config, TEXTS, family=family, size=size).train()
        if checkpointing:
            model.vlm.gradient_checkpointing_enable({"use_reentrant": False})
        image, depth = views[0]
        turns = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[1]}]
        batch = model.processor([image], [turns], [depth])
        plan = memory_plan(
            model,
            tokens=batch["input_ids"].shape[1],
            patches=len(batch["pixel_values"]),
            training=True,
            checkpointing=checkpointing,
        )
        return bytes_kept(model, batch), plan.activations

    return build


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
@pytest.mark.parametrize("fusion", ["none", "concat", "packed", "rgbd"])
def test_activations_are_within_a_factor_of_two(measured, fusion, lora):
    settings = {"fusion": "concat", "depth_tokens": "packed"} if fusion == "packed" else {"fusion": fusion}
    config = DepthVLMConfig(**settings, lora=lora)
    kept, planned = measured(config, layers=6)
    assert 0.5 < planned / kept < 2
    less, planned_less = measured(config, layers=6, checkpointing=True)
    again = kept - measured(config, layers=5)[0]  # one layer of each stack, which the backward pass computes again
    assert 0.5 < planned_less / (less + again) < 2
    assert less < kept and planned_less < planned


def test_the_plan_says_which_activations_it_counts(make):
    model = make("positional")
    rows = [
        str(memory_plan(model, tokens=9, training=True, checkpointing=one)).splitlines()[3] for one in (True, False)
    ]
    assert rows[0].startswith("activations") and rows[0].endswith("GiB (with gradient checkpointing)")
    assert rows[1].endswith("GiB (without gradient checkpointing)")
    assert "checkpointing" not in str(memory_plan(model, tokens=9))


def test_a_layer_more_costs_what_it_remembers(make):
    """By hand: fp32, width 32, two heads of 16 for queries and keys alike, an inside of 128."""
    plans = [
        memory_plan(make("none"), tokens=10, training=True, checkpointing=one).activations for one in (True, False)
    ]
    layer = 6 * 32 + 2 * 16 * (2 + 2) + 4 * 128
    assert plans[1] - plans[0] == 4 * 10 * (2 * layer - (2 * 32 + layer))
