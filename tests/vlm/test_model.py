"""Answering, training, saving and loading, and adapters."""

import json
import shutil

import numpy as np
import pytest
import torch

from fathom.errors import UserError
from fathom.lora import LoRA
from fathom.vlm.config import DepthVLMConfig
from fathom.vlm.qwen import vision_tower
from fathom.vlm.saving import load_depth_vlm, start_depth_vlm

from .conftest import TEXTS

FUSIONS = ["none", "concat", "positional", "adapter", "rgbd"]


def disturb(model):
    """Weights that no initialisation would give."""
    with torch.no_grad():
        for index, parameter in enumerate(model.depth_parameters().values()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    return model


@pytest.fixture
def base(make, tmp_path):
    """A published checkpoint, in the layout of transformers, of the tests' own weights."""
    plain = make("none")
    plain.vlm.save_pretrained(tmp_path / "base")
    plain.processor.save(tmp_path / "base")
    return tmp_path / "base"


def test_an_answer_is_learnt(make, views):
    """One picture, one question: the loss falls and the answer comes back word by word."""
    model = make("positional").train()
    image, depth = views[0]
    turns = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[1]}]
    batch = model.processor([image], [turns], [depth])
    assert "labels" in batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert model.eval().answer(image, TEXTS[0], depth) == TEXTS[1]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_saved_model_is_the_same_model(make, batch_of, tmp_path, fusion):
    model = disturb(make(fusion, lora=LoRA(rank=2), compression=2 if fusion == "concat" else 1))
    model.save(tmp_path / "model")
    again = load_depth_vlm(tmp_path / "model")
    assert again.config == model.config and not again.training
    with torch.no_grad():
        assert torch.equal(model(**batch_of(model)).logits, again(**batch_of(again)).logits)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_adapters_save_and_load_alone(base, batch_of, tmp_path, fusion):
    model = disturb(start_depth_vlm(base, DepthVLMConfig(fusion=fusion, lora=LoRA(rank=2)))).eval()
    model.save(tmp_path / "adapters", adapters_only=True)
    assert not (tmp_path / "adapters/model.safetensors").exists()
    again = load_depth_vlm(tmp_path / "adapters")
    with torch.no_grad():
        assert torch.equal(model(**batch_of(model)).logits, again(**batch_of(again)).logits)


def test_merged_adapters_answer_alike(make, batch_of, tmp_path):
    model = disturb(make("concat", lora=LoRA(rank=2)))
    with torch.no_grad():
        before = model(**batch_of(model)).logits
        model.merge().save(tmp_path / "merged")
        again = load_depth_vlm(tmp_path / "merged")
        assert again.config.lora is None and not any("lora" in name for name, _ in again.named_parameters())
        assert torch.allclose(before, again(**batch_of(again)).logits, atol=1e-5)


def test_lora_starts_as_nothing_and_is_all_that_is_trained(make, batch_of):
    plain, model = make("none"), make("none", lora=LoRA(rank=2))
    with torch.no_grad():
        assert torch.equal(plain(**batch_of(plain)).logits, model(**batch_of(model)).logits)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all("language_model.layers" in name and ".lora_" in name for name in trained)
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in trained} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


@pytest.mark.parametrize("fusion", ["concat", "adapter", "rgbd"])
def test_what_depth_adds_is_trained_beside_lora(make, batch_of, fusion):
    """Every trained weight gets a gradient, but for those before a gate or a LoRA that is still zero."""
    model = disturb(make(fusion, lora=LoRA(rank=2))).train()
    turns = [[{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[1]}]] * 2
    batch = {k: v for k, v in batch_of(model).items() if k not in ("input_ids", "attention_mask")}
    batch |= model.processor._text(turns, batch["image_grid_thw"])
    model(**batch).loss.backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(model.depth_parameters())
    assert not [name for name in trained if model.get_parameter(name).grad is None]
    prefix = {"concat": "depth_encoder.", "adapter": "side_adapter.", "rgbd": "vlm.model.visual.patch_embed."}[fusion]
    moved = [n for n in trained if n.startswith(prefix) and model.get_parameter(n).grad.abs().sum() > 0]
    assert moved


def test_a_published_checkpoint_comes_as_it_is(base, make, batch_of):
    plain, loaded = make("none"), load_depth_vlm(base)
    assert loaded.config.fusion == "none" and loaded.config.base == str(base)
    with torch.no_grad():
        assert torch.equal(plain(**batch_of(plain)).logits, loaded(**batch_of(loaded)).logits)


def test_depth_put_onto_a_published_vlm_starts_as_its_tower(base):
    model = start_depth_vlm(base, DepthVLMConfig(fusion="concat"))
    ours, theirs = model.depth_encoder.tower.state_dict(), vision_tower(model.vlm).state_dict()
    kernel = theirs["patch_embed.proj.weight"]
    grey = kernel[:, 0:1] + kernel[:, 1:2] + kernel[:, 2:3]
    assert torch.allclose(ours.pop("patch_embed.proj.weight"), grey, atol=1e-6)
    assert "blocks.0.attn.qkv.weight" in ours
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_half_the_bits_keep_the_positions_whole(make, batch_of, tmp_path):
    model = make("adapter")
    model.save(tmp_path / "model")
    half = load_depth_vlm(tmp_path / "model", dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert {b.dtype for name, b in half.named_buffers() if "inv_freq" in name} == {torch.float32}
    with torch.no_grad():
        assert torch.allclose(half(**batch_of(half)).logits.float(), model(**batch_of(model)).logits, atol=0.1)


@pytest.mark.parametrize("fusion", ["concat", "adapter", "positional", "rgbd"])
def test_a_vlm_in_bf16_is_tuned_by_parts_in_fp32(base, views, fusion):
    model = start_depth_vlm(base, DepthVLMConfig(fusion=fusion, lora=LoRA(rank=2)), dtype=torch.bfloat16).train()
    assert {p.dtype for p in model.depth_parameters().values()} == {torch.float32}
    assert model.vlm.get_input_embeddings().weight.dtype == torch.bfloat16
    image, depth = views[0]
    turns = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[1]}]
    model(**model.processor([image], [turns], [depth])).loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_a_step_at_a_small_learning_rate_moves_every_weight_of_the_kernel(base, views):
    """In bf16 it would be rounded away for most of them."""
    model = start_depth_vlm(base, DepthVLMConfig(fusion="rgbd", lora=LoRA(rank=2)), dtype=torch.bfloat16).train()
    image, depth = views[0]
    turns = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[1]}]
    kernel = model.vlm.model.visual.patch_embed.proj.weight
    before = kernel.detach().clone()
    model(**model.processor([image], [turns], [depth])).loss.backward()
    with_gradient = kernel.grad != 0
    torch.optim.SGD([kernel], lr=1.0).zero_grad(set_to_none=False)
    kernel.grad = with_gradient.float()  # AdamW's first step: the learning rate, whatever the gradient
    torch.optim.SGD([kernel], lr=2e-5).step()
    moved = (kernel != before) == with_gradient
    assert with_gradient.float().mean() > 0.9 and moved.float().mean() > 0.99


def test_merged_or_wholly_trained_models_are_saved_whole(base, tmp_path):
    model = start_depth_vlm(base, DepthVLMConfig(fusion="positional", lora=LoRA(rank=2)))
    with pytest.raises(UserError, match=r"no adapters .* save it whole"):
        model.merge().save(tmp_path / "merged", adapters_only=True)
    assert not (tmp_path / "merged").exists()


def test_bad_folders_are_told_in_one_sentence(make, tmp_path, base):
    with pytest.raises(UserError, match="no such folder"):
        load_depth_vlm(tmp_path / "nowhere")
    model = make("positional", lora=LoRA(rank=2))
    with pytest.raises(UserError, match="random weights"):
        model.save(tmp_path / "adapters", adapters_only=True)
    model.save(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"fusion": "sum"}))
    with pytest.raises(UserError, match="fusion"):
        load_depth_vlm(tmp_path / "model")
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="qwen2_5_vl, qwen3_vl"):
        load_depth_vlm(tmp_path / "model")
    (base / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer"):
        load_depth_vlm(base)


def test_adapters_of_another_shape_are_refused(base, tmp_path):
    start_depth_vlm(base, DepthVLMConfig(fusion="none", lora=LoRA(rank=2))).save(tmp_path / "a", adapters_only=True)
    start_depth_vlm(base, DepthVLMConfig(fusion="none", lora=LoRA(rank=4))).save(tmp_path / "b", adapters_only=True)
    shutil.copy(tmp_path / "b/adapters.safetensors", tmp_path / "a/adapters.safetensors")
    with pytest.raises(UserError, match="does not fit its configuration and base"):
        load_depth_vlm(tmp_path / "a")


def test_depth_is_asked_for(make, views):
    image, depth = views[0]
    with pytest.raises(UserError, match=r"reads depth \(fusion = rgbd\)"):
        make("rgbd").answer(image, TEXTS[0])
    model = make("none")
    assert model.answer(image, TEXTS[0], max_new_tokens=3) == model.answer(image, TEXTS[0], depth, max_new_tokens=3)


def test_an_estimator_stands_in_for_depth(make, views):
    from fathom.depth.depth_map import DepthVideo

    image, depth = views[0]

    class Estimator:
        kind = "metric"

        def estimate(self, frames, *, episode=None):
            assert frames.shape == (1, *depth.shape, 3)
            return DepthVideo(depth[None], self.kind, np.ones_like(depth[None], dtype=bool))

    model = make("positional")
    turns = [[{"role": "user", "content": TEXTS[0]}]]
    given = model.processor([image], turns, [depth])
    model.processor.estimator = Estimator()
    estimated = model.processor([image], turns)
    assert torch.equal(given["depth_values"], estimated["depth_values"])
    Estimator.kind = "relative_inverse"
    with pytest.raises(UserError, match="relative_inverse depth, and the model reads metric"):
        model.processor([image], turns)
