"""Fine-tuning a depth-aware VLM with transformers' Trainer."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fathom.cli.main import main
from fathom.errors import UserError
from fathom.lora import LoRA
from fathom.training import finetune as finetuning
from fathom.training import trainer as module
from fathom.training.finetune import FinetuneConfig, FinetuneRecipe, finetune, start_for
from fathom.vlm.config import DepthVLMConfig
from fathom.vlm.conversations import Conversation
from fathom.vlm.saving import load_depth_vlm, start_depth_vlm
from fathom.vlm.small import SmallSize, small_depth_vlm

SIZE = SmallSize(width=32, layers=1, vision_width=16, vision_layers=1, patch=4, image=16)
TEXTS = ["How far is it?", "near", "far", "middle"]
TRAINING = FinetuneConfig(epochs=2, batch_size=2, lr=1e-2, precision="fp32", log_every=1, checkpoint_every=2)


def recipe(fusion="positional", lora=None, **training):
    return FinetuneRecipe(DepthVLMConfig(fusion=fusion, lora=lora), replace(TRAINING, **training))


def start(of):
    return partial(small_depth_vlm, of.model, TEXTS, size=SIZE)


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """Six pictures with depth, and an answer to each."""
    folder, rng = tmp_path_factory.mktemp("talk"), np.random.default_rng(0)
    found = []
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        depth = np.linspace(500, 900 * (number + 1), 256).reshape(16, 16).astype(np.uint16)
        Image.fromarray(depth).save(folder / f"{number}_d.png")
        turns = ({"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[1 + number % 3]})
        found.append(Conversation(folder / f"{number}.png", turns, folder / f"{number}_d.png"))
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A published checkpoint in the layout of transformers."""
    folder = tmp_path_factory.mktemp("base")
    plain = small_depth_vlm(DepthVLMConfig(fusion="none"), TEXTS, size=SIZE)
    plain.vlm.save_pretrained(folder)
    plain.processor.save(folder)
    return folder


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_answers_are_learnt_and_kept(talk, tmp_path):
    longer = recipe(epochs=10, log_every=10)
    model = finetune(start(longer), talk, longer, tmp_path / "run")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]
    again = load_depth_vlm(tmp_path / "run")
    for one in talk:
        assert again.answer(one.image, TEXTS[0], one.depth) == model.answer(one.image, TEXTS[0], one.depth)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert again.provenance["data"] == {"conversations": 6} and again.provenance["metrics"]["loss"] == losses[-1]


def test_parts_of_a_batch_come_to_the_same_weights(talk, tmp_path):
    """Their answers are of different length, so that the mean of the parts' means would be another loss."""
    rows = [replace(one, messages=(one.messages[0], {"role": "assistant", "content": "far " * (1 + number)}))
            for number, one in enumerate(talk)]  # fmt: skip
    whole, parts = recipe(batch_size=6), recipe(batch_size=6, micro_batch=2)
    model = finetune(start(whole), rows, whole, tmp_path / "whole")
    other = finetune(start(parts), rows, parts, tmp_path / "parts")
    losses = [[json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
              for name in ("whole", "parts")]  # fmt: skip
    assert len(losses[0]) == 2 and np.allclose(*losses, rtol=1e-5)
    for name, tensor in weights(model).items():
        assert torch.allclose(tensor, weights(other)[name], atol=1e-4), name


class Killed(Exception):
    pass


def test_an_interrupted_run_comes_to_the_same_weights(talk, tmp_path, monkeypatch):
    one = recipe()
    undisturbed = weights(finetune(start(one), talk, one, tmp_path / "one"))

    def dies(self, args, state, control, **_):
        if state.global_step == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module.Watch, "on_step_end", dies)
        with pytest.raises(Killed):
            finetune(start(one), talk, one, tmp_path / "two")
    assert [path.name for path in (tmp_path / "two").glob("checkpoint-*")] == ["checkpoint-2"]
    (tmp_path / "two/checkpoint-9").mkdir()  # one that was cut: nothing tells that it is whole
    resumed = weights(finetune(start(one), talk, one, tmp_path / "two"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in undisturbed.items())
    steps = [json.loads(line)["step"] for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    with pytest.raises(UserError, match=r"training.lr is 0.01 there and 0.02 here"):
        finetune(start(one), talk, recipe(lr=0.02), tmp_path / "two")


@pytest.mark.parametrize("fusion", ["concat", "rgbd"])
def test_with_lora_what_was_added_is_saved_alone_and_merged_on_request(talk, base, tmp_path, fusion):
    tuned = recipe(fusion, LoRA(rank=2, alpha=32))
    command = ["vlm", "finetune", "talk.json", "--model", str(base), "--out", str(tmp_path / "run"), "--recipe", fusion]
    lines = [
        {"image": str(one.image), "depth": str(one.depth), "messages": list(one.messages), "unit": "mm"} for one in talk
    ]
    (tmp_path / "talk.json").write_text(json.dumps(lines))
    command[2] = str(tmp_path / "talk.json")
    options = {"epochs": 2, "batch-size": 2, "lr": 1e-2, "precision": "fp32", "log-every": 1, "checkpoint-every": 2}
    command += [word for name, value in options.items() for word in (f"--training.{name}", str(value))]
    assert main([*command, "--model.lora.rank", "2", "--merge"]) in (0, None)
    saved = {path.name for path in (tmp_path / "run").glob("*.safetensors")}
    assert saved == {"adapters.safetensors"}
    model, merged = load_depth_vlm(tmp_path / "run"), load_depth_vlm(tmp_path / "run/merged")
    assert model.config == replace(tuned.model, base=str(base)) and merged.config.lora is None
    plain = start_depth_vlm(base, replace(tuned.model, lora=None))
    batch = model.processor([talk[0].image], [talk[0].messages], [talk[0].depth])
    with torch.no_grad():
        logits = [one.eval()(**batch).logits for one in (model, merged, plain)]
    assert torch.allclose(logits[0], logits[1], atol=1e-4)
    assert not torch.allclose(logits[0], logits[2], atol=1e-2)


def test_the_model_is_ready_for_the_hub(talk, base, tmp_path):
    tuned = recipe("adapter", LoRA(rank=2, alpha=32), epochs=0.4)
    model = finetune(start_for(str(base), tuned, None, talk), talk, tuned, tmp_path / "run")
    model.save_pretrained(tmp_path / "hub")
    card = (tmp_path / "hub/README.md").read_text()
    assert "pipeline_tag: image-text-to-text" in card and "| training.lr | 0.01 |" in card and "Not stated" in card
    again = type(model).from_pretrained(tmp_path / "hub")
    assert again.processor.tokenizer.get_vocab() == model.processor.tokenizer.get_vocab()
    assert again.provenance == model.provenance and (tmp_path / "hub/adapters.safetensors").exists()
    with torch.no_grad():
        batch = model.processor([talk[0].image], [talk[0].messages], [talk[0].depth])
        assert torch.equal(model(**batch).logits, again(**batch).logits)


def test_adapters_go_onto_the_commit_that_they_were_trained_on(talk, base, tmp_path, monkeypatch):
    """Their owner may put other weights under the same name."""
    asked = []

    def download(name, *, revision=None, **_):
        asked.append((name, revision))
        folder = tmp_path / "models--owner--vlm/snapshots" / (revision or "0a1b2c")
        shutil.copytree(base, folder, dirs_exist_ok=True)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    tuned = recipe("adapter", LoRA(rank=2, alpha=32), epochs=0.4)
    finetune(start_for("owner/vlm", tuned, None, talk), talk, tuned, tmp_path / "run")
    assert {revision for _, revision in asked} == {None}
    again = load_depth_vlm(tmp_path / "run")
    assert asked[-1] == ("owner/vlm", "0a1b2c") and again.config.base_revision == "0a1b2c"


def test_a_model_without_depth_is_a_base_for_one_with(talk, tmp_path):
    plain = recipe("none", epochs=0.4)
    base = finetune(start(plain), talk, plain, tmp_path / "base")
    onto = start_depth_vlm(tmp_path / "base", DepthVLMConfig(fusion="rgbd")).eval()
    with torch.no_grad():
        batch = onto.processor([talk[0].image], [talk[0].messages], [talk[0].depth])
        there = {name: tensor for name, tensor in batch.items() if name != "depth_values"}
        assert torch.allclose(onto(**batch).logits, base(**there).logits, atol=1e-5)  # its fourth kernel is zero
    onto.save(tmp_path / "onto")
    with pytest.raises(UserError, match="has depth or adapters already"):
        start_depth_vlm(tmp_path / "onto", DepthVLMConfig(fusion="concat"))


def test_what_comes_back_from_fsdp_must_hold_all_that_was_trained(base, tmp_path):
    model = start_depth_vlm(base, DepthVLMConfig(fusion="concat", lora=LoRA(rank=2)))
    trained = {f"model.{name}": p.detach() for name, p in model.named_parameters() if p.requires_grad}
    save_file({name: torch.zeros_like(value) for name, value in trained.items()}, tmp_path / "all.safetensors")
    finetuning._take_over(model, tmp_path / "all.safetensors")
    assert all(value.abs().max() == 0 for value in trained.values())
    assert any(p.abs().max() > 0 for p in model.parameters())  # what is frozen stays
    lost, *kept = trained
    save_file({name: torch.zeros_like(trained[name]) for name in kept}, tmp_path / "fewer.safetensors")
    with pytest.raises(UserError, match=f"lacks 1 of the weights that were trained, such as {lost}"):
        finetuning._take_over(model, tmp_path / "fewer.safetensors")


@pytest.mark.parametrize("micro_batch", [0, -1])
def test_a_micro_batch_holds_something(micro_batch):
    with pytest.raises(ValueError, match="micro_batch"):
        FinetuneConfig(micro_batch=micro_batch)


def test_bad_input_is_told(talk, tmp_path, monkeypatch):
    one = recipe()
    with pytest.raises(ValueError, match="epochs is 0"):
        replace(TRAINING, epochs=0)
    with pytest.raises(UserError, match=r"batch_size 2 is no multiple of 3"):
        finetune(start(one), talk, recipe(micro_batch=3), tmp_path / "a")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="fsdp_config needs GPUs"):
            finetune(start(one), talk, recipe(fsdp_config="fsdp.json"), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match="say unit=mm"):
        finetune(start(one), [talk[1], replace(talk[0], unit="m")], one, tmp_path / "b")
    with pytest.raises(UserError, match="this model reads depth"):
        finetune(start(one), [replace(talk[0], depth=None)], one, tmp_path / "c")
    with pytest.raises(UserError, match=r"the loss is .* lower the learning rate"):
        finetune(start(one), talk, recipe(lr=1e12, clip_norm=1e12), tmp_path / "d")


def test_the_memory_plan_comes_before_the_weights_and_is_that_of_one_process(talk, base, monkeypatch, capsys):
    def refuses(*_, **__):
        raise Killed

    monkeypatch.setattr(finetuning, "start_depth_vlm", refuses)
    told = []
    for processes in ("1", "2"):
        monkeypatch.setenv("WORLD_SIZE", processes)
        with pytest.raises(Killed):
            start_for(str(base), recipe("concat", LoRA(rank=2, alpha=32), batch_size=2000), None, talk)()
        told.append(dict(line.split()[:2] for line in capsys.readouterr().out.splitlines()))
    assert told[0]["weights"] == told[1]["weights"]
    assert float(told[0]["activations"]) == pytest.approx(2 * float(told[1]["activations"]), abs=0.02)
    assert float(told[1]["activations"]) > 0.05


def test_each_conversation_has_its_own_unit(talk, tmp_path):
    """The same depth as millimetres and as metres."""
    millimetres = np.asarray(Image.open(talk[0].depth))
    np.save(tmp_path / "metres.npy", millimetres.astype(np.float32) / 1000)
    rows = [replace(talk[0], unit="mm"), replace(talk[0], depth=tmp_path / "metres.npy", unit="m")]
    one, other = finetuning._batch(start(recipe())().processor, rows)["depth_values"].chunk(2)
    assert torch.allclose(one, other) and one.max() < 10


@pytest.mark.slow
def test_pairs_align_and_finetune_in_a_row(talk, base, tmp_path):
    """As the page `teach_a_vlm_depth` has it."""
    for place in ("images", "depth"):
        (tmp_path / "pairs" / place).mkdir(parents=True)
    for number, one in enumerate(talk):
        shutil.copy(one.image, tmp_path / f"pairs/images/{number}.png")
        shutil.copy(one.depth, tmp_path / f"pairs/depth/{number}.png")
    (tmp_path / "pairs/pairs.json").write_text(json.dumps({"kind": "relative_inverse"}))
    lines = [
        {"image": f"images/{n}.png", "depth": f"depth/{n}.png", "messages": list(one.messages)}
        for n, one in enumerate(talk)
    ]
    (tmp_path / "pairs/talk.json").write_text(json.dumps(lines))
    few = ["--training.batch-size", "2", "--training.precision", "fp32"]
    aligning = ["vlm", "align", str(tmp_path / "pairs"), "--model", str(base), "--out", str(tmp_path / "aligned")]
    assert main([*aligning, "--held-out", "0.34", "--training.epochs", "1", *few]) in (0, None)
    tuning = [
        "vlm",
        "finetune",
        str(tmp_path / "pairs/talk.json"),
        "--model",
        str(base),
        "--aligned",
        str(tmp_path / "aligned"),
    ]
    tuning += ["--training.epochs", "0.4", *few]
    assert main([*tuning, "--out", str(tmp_path / "metric")]) == 2  # the default depth is another than the pairs'
    assert main([*tuning, "--out", str(tmp_path / "tuned"), "--model.depth-kind", "relative_inverse"]) in (0, None)
    assert load_depth_vlm(tmp_path / "tuned").config.depth_kind == "relative_inverse"
