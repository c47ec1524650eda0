"""Every tensor is accounted for, before the first is written."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fathom.errors import UserError
from fathom.policies.qdepth_vla import QDepthVLA
from fathom.policies.weights import import_open_pi_zero
from fathom.policies.weights.checkpoint import open_checkpoint
from fathom.policies.weights.conversion import plan
from fathom.policies.weights.folder import fresh_depth
from fathom.policies.weights.open_pi_zero import Sizes, keys


@pytest.fixture
def attempt(golden, tmp_path, tokenizer) -> Callable[..., Path]:
    """Imports the golden weights with some of them replaced, or without those that are ``None``."""

    def run(changes: Mapping[str, Tensor | None], *, depth: bool = False) -> Path:
        weights = load_file(f"{golden}.weights.safetensors") | dict(changes)
        path, out = tmp_path / "weights.safetensors", tmp_path / "out"
        save_file({key: value for key, value in weights.items() if value is not None}, path)
        sizes = Path(f"{golden}.config.json")
        import_open_pi_zero(path, out, tokenizer=tokenizer, sizes=sizes, depth=depth)
        return out

    return run


@pytest.fixture
def refusal(attempt, tmp_path) -> Callable[..., str]:
    """The same where it must be refused: what it says, and nothing is left behind."""

    def run(changes: Mapping[str, Tensor | None]) -> str:
        with pytest.raises(UserError, match=str(tmp_path / "weights.safetensors")) as refused:
            attempt(changes)
        assert not (tmp_path / "out").exists()
        return str(refused.value)

    return run


VLM, ACTION, PROPRIO = (f"joint_model.mixtures.{name}." for name in ("vlm", "action", "proprio"))
READ = "layers.2.self_attn.k_proj.weight"  # the last layer's


@pytest.mark.parametrize(
    "key", ["action_decoder.bias", "embed_tokens.weight", VLM + READ, VLM + "layers.0.mlp.up_proj.weight"]
)
def test_a_missing_tensor(refusal, key):
    assert f"missing {key}" in refusal({key: None})


def test_a_tensor_missing_from_both_copies(refusal):
    said = refusal({ACTION + READ: None, PROPRIO + READ: None})
    assert f"missing {ACTION}{READ}" in said


@pytest.mark.parametrize("key", ["extra.weight", VLM + "layers.3.input_layernorm.weight", "action_decoder.scale"])
def test_an_unknown_tensor(refusal, key):
    assert f"unknown {key}" in refusal({key: torch.zeros(2)})


def test_a_tensor_of_another_shape(refusal):
    assert "action_decoder.weight is 7x16, expected 7x32" in refusal({"action_decoder.weight": torch.zeros(7, 16)})


def test_a_tensor_of_whole_numbers(refusal):
    said = refusal({"action_decoder.bias": torch.zeros(7, dtype=torch.int8)})
    assert "action_decoder.bias is of type I8" in said


def test_the_first_five_and_how_many_more(refusal):
    said = refusal({f"extra.{number}": torch.zeros(1) for number in range(8)})
    assert all(f"unknown extra.{number}" in said for number in range(5))
    assert "and 3 more" in said
    assert "extra.5" not in said


def test_a_tied_copy_that_differs(refusal, golden):
    copy = load_file(f"{golden}.weights.safetensors")[PROPRIO + READ]
    said = refusal({PROPRIO + READ: copy + 1e-6})
    assert PROPRIO + READ in said
    assert ACTION + READ in said


@pytest.mark.parametrize("gone", [ACTION, PROPRIO], ids=["action", "proprio"])
def test_one_of_two_tied_copies_is_enough(attempt, golden, gone):
    weights = load_file(f"{golden}.weights.safetensors")
    written = load_file(attempt({key: None for key in weights if key.startswith(gone)}) / "model.safetensors")
    assert torch.equal(written["mixture.streams.action." + READ], weights[ACTION + READ])


def test_what_nothing_reads_may_be_missing_and_is_zero(attempt, golden):
    weights = load_file(f"{golden}.weights.safetensors")
    unread = ("self_attn.q_proj", "self_attn.o_proj", "mlp", "post_attention_layernorm")
    gone = [key for key in weights if key.startswith(tuple(f"{VLM}layers.2.{name}" for name in unread))]
    assert len(gone) == 6
    written = load_file(attempt(dict.fromkeys(gone)) / "model.safetensors")
    for key in gone:
        assert not written[key.replace(VLM, "mixture.streams.vlm.")].any()
    assert not written["mixture.streams.vlm.norm.weight"].any()  # open-pi-zero never has it


def test_values_and_types_are_kept(attempt, golden):
    weights = load_file(f"{golden}.weights.safetensors")
    half = {"proprio_encoder.bias": weights["proprio_encoder.bias"].bfloat16()}
    written = load_file(attempt(half) / "model.safetensors")
    assert written["proprio_encoder.bias"].dtype == torch.bfloat16
    assert torch.equal(written["proprio_encoder.bias"], half["proprio_encoder.bias"])
    assert torch.equal(written["mixture.streams.vlm." + READ], weights[VLM + READ])


class TestFreshParts:
    def write(self, golden: str, path: Path, seed: int) -> dict[str, Tensor]:
        config = Sizes.read(Path(f"{golden}.config.json")).config
        config = replace(config, depth=fresh_depth(config.vision))
        plan(open_checkpoint(Path(f"{golden}.weights.safetensors")), keys(config), config).write(path, seed)
        return {k: v for k, v in load_file(path).items() if k.startswith(("depth_head.", "mixture.streams.depth."))}

    def test_they_are_those_of_a_new_model(self, golden, tmp_path):
        """In distribution: every matrix as uniform, and as wide, as torch's own layers begin."""
        config = Sizes.read(Path(f"{golden}.config.json")).config
        new = QDepthVLA(replace(config, depth=fresh_depth(config.vision))).state_dict()
        fresh = self.write(golden, tmp_path / "a", 0)
        assert fresh.keys() == {k for k in new if k.startswith(("depth_head.", "mixture.streams.depth."))}
        for key, values in fresh.items():
            if values.numel() < 100:  # too few to tell
                continue
            assert values.std().item() == pytest.approx(new[key].std().item(), rel=0.3), key
            assert values.abs().max().item() == pytest.approx(new[key].abs().max().item(), rel=0.2), key

    def test_norms_and_what_the_tokenizer_gives_begin_neutral(self, golden, tmp_path):
        fresh = self.write(golden, tmp_path / "a", 0)
        assert not fresh["mixture.streams.depth.norm.weight"].any()  # Gemma's norm multiplies by one plus it
        assert not fresh["depth_head.target.codebook"].any()
        assert fresh["depth_head.target.temperature"] == 1

    def test_they_depend_on_the_seed_alone(self, golden, tmp_path):
        before = torch.get_rng_state()
        once, again, other = (
            self.write(golden, tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
        )
        assert all(torch.equal(once[key], again[key]) for key in once)
        assert not torch.equal(once["depth_head.project_in.0.weight"], other["depth_head.project_in.0.weight"])
        assert torch.equal(torch.get_rng_state(), before)


MEASURE = """
import sys, threading, time
from dataclasses import replace
from pathlib import Path
from fathom.policies.weights.checkpoint import open_checkpoint
from fathom.policies.weights.conversion import plan
from fathom.policies.weights.folder import fresh_depth
from fathom.policies.weights.open_pi_zero import Sizes, keys

def resident():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssFile")) * 1024

source, sizes, out = map(Path, sys.argv[1:])
config = Sizes.read(sizes).config
config = replace(config, depth=fresh_depth(config.vision))
plan(open_checkpoint(source), keys(config), config)  # what the code itself takes is no concern of this test
before = peak = resident()
done = False
def watch():
    global peak
    while not done:
        peak = max(peak, resident())
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
plan(open_checkpoint(source), keys(config), config).write(out, 0)
done = True
watcher.join()
print(peak - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
@pytest.mark.parametrize("form", ["shards", "pt"])
def test_peak_memory_is_at_most_the_largest_shard_and_a_fifth(make_checkpoint, tmp_path, form):
    """450 MB of weights: three shards, or one file of torch.save, of which a third is an optimiser's state."""
    width = {"vlm": {"width": 512, "mlp": 4096}, "expert": {"width": 256, "mlp": 1024}}
    prefix = make_checkpoint(layers=12, vocab_size=40_000, image_token_index=39_999, **width)
    weights = load_file(f"{prefix}.weights.safetensors")
    if form == "pt":
        source = tmp_path / "weights.pt"
        torch.save({"model": weights, "optimizer": {"state": torch.zeros(40_000_000)}}, source)
        largest = source.stat().st_size
    else:
        source = tmp_path / "shards"
        source.mkdir()
        where, third = {}, sum(v.nbytes for v in weights.values()) / 3
        total = 0
        for key, value in weights.items():
            where[key] = f"model-{int(total / third)}.safetensors"
            total += value.nbytes
        for name in set(where.values()):
            save_file({key: weights[key] for key in weights if where[key] == name}, source / name)
        (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
        largest = max(path.stat().st_size for path in source.glob("*.safetensors"))
        assert len(set(where.values())) == 3
    assert largest > 100e6
    command = [sys.executable, "-c", MEASURE, source, f"{prefix}.config.json", tmp_path / "out.safetensors"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    assert (tmp_path / "out.safetensors").stat().st_size > 300e6
    assert int(done.stdout.split()[-1]) < 1.2 * largest
