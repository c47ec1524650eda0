"""``fathom verify open-pi-zero``: the recorded numbers, and any other size in their layout."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fathom.cli.main import main
from fathom.policies.weights import verify_open_pi_zero

ENDINGS = (".config.json", ".weights.safetensors", ".cases.safetensors")


@pytest.fixture
def copied(golden, tmp_path) -> str:
    for ending in ENDINGS:
        shutil.copy(golden + ending, tmp_path / f"copy{ending}")
    return str(tmp_path / "copy")


def rewrite(path: str, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_the_reference_of_these_tests_gives_what_open_pi_zero_recorded(golden, reference):
    recorded = load_file(f"{golden}.cases.safetensors")
    for name, value in reference(golden).items():
        torch.testing.assert_close(value.float(), recorded[name], atol=1e-5, rtol=0)


def test_the_golden_files_hold(golden, capsys):
    assert main(["verify", "open-pi-zero", golden]) == 0
    verdict = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert verdict["ok"] is True
    assert set(verdict["max"]) == {"prefix_embeddings", "loss", "actions"}
    assert max(verdict["max"].values()) < 1e-5
    assert verdict["tolerance"] == dict.fromkeys(verdict["max"], 1e-4)


OTHERS = {
    "widths": {"vlm": {"width": 48, "mlp": 80}, "expert": {"width": 24, "mlp": 40}},
    "the expert as wide as the language model": {"expert": {"width": 64, "mlp": 64}},
    "one layer": {"layers": 1},
    "five layers": {"layers": 5},
    "heads": {"heads": 6, "kv_heads": 2, "head_dim": 8},
    "as many kv heads as heads": {"kv_heads": 4},
    "larger heads than width / heads": {"head_dim": 32},
    "many image tokens": {"siglip": {"image_size": 48, "patch_size": 8}, "max_image_text_tokens": 42},
    "a picture that is no multiple of the patch": {"siglip": {"image_size": 30}},
    "a deeper tower": {"siglip": {"width": 32, "heads": 4, "layers": 3, "mlp": 20, "layer_norm_eps": 1e-5}},
    "one text token": {"max_image_text_tokens": 5},
    "much text": {"max_image_text_tokens": 40},
    "a long chunk": {"horizon": 50},
    "a chunk of one": {"horizon": 1},
    "another robot": {"action_dim": 14, "proprio_dim": 9},
    "rotary positions": {"rope_theta": 500.0, "expert_rope_theta": 100.0},
    "norms": {"rms_norm_eps": 1e-3},
    "time": {"time_max_period": 100.0},
    "noise left": {"flow_sig_min": 0.05},
    "no noise left": {"flow_sig_min": 0.0},
    "no soft cap": {"attention_softcap": None},
    "a tight soft cap": {"attention_softcap": 0.5},
    "clipped": {"clip_final_action": 0.3},
    "three steps": {"num_inference_steps": 3},
    "vocabulary": {"vocab_size": 300, "image_token_index": 299},
    "an image token beyond the vocabulary": {"image_token_index": 200},
    "another padding": {"pad_token_id": 1},
    "a batch of one": {"batch": 1},
    "a batch of five": {"batch": 5},
    "no copy of the shared expert": {"tied": False},
    "without what nothing reads": {"unread": False},
    "everything at once": {
        "vlm": {"width": 40, "mlp": 72}, "expert": {"width": 20, "mlp": 36}, "layers": 2, "heads": 4, "kv_heads": 2,
        "head_dim": 12, "siglip": {"width": 18, "heads": 3, "image_size": 36, "patch_size": 12},
        "max_image_text_tokens": 16, "horizon": 7, "action_dim": 3, "proprio_dim": 5, "rope_theta": 300.0,
        "expert_rope_theta": 50.0, "time_max_period": 64.0, "flow_sig_min": 0.01, "attention_softcap": None,
        "clip_final_action": 1.5, "num_inference_steps": 4, "tied": False, "unread": False, "batch": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_sizes_and_conventions_hold(record, name):
    verdict = verify_open_pi_zero(record(**OTHERS[name]))
    assert verdict["ok"], verdict


CHANGES = {
    "rope_theta": 500.0, "expert_rope_theta": 100.0, "time_max_period": 100.0, "attention_softcap": 1.0,
    "flow_sig_min": 0.05, "num_inference_steps": 9, "clip_final_action": 0.2, "rms_norm_eps": 1e-2,
}  # fmt: skip


@pytest.mark.parametrize("field", CHANGES)
def test_another_convention_than_the_recorded_one_is_noticed(copied, field):
    """So the sizes file is really read."""
    path = Path(f"{copied}.config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), field: CHANGES[field]}))
    assert not verify_open_pi_zero(copied)["ok"]


def test_padding_that_the_mask_calls_valid_is_read_as_open_pi_zero_reads_it(record, reference):
    prefix = record()
    rewrite(f"{prefix}.cases.safetensors", lambda cases: cases["attention_mask"].fill_(1))
    assert not verify_open_pi_zero(prefix)["ok"]
    expected = reference(prefix)
    rewrite(f"{prefix}.cases.safetensors", lambda cases: cases.update({k: v.float() for k, v in expected.items()}))
    assert verify_open_pi_zero(prefix)["ok"]


@pytest.mark.parametrize(
    ("recorded", "name"),
    [("expected_actions", "actions"), ("expected_loss", "loss"), ("expected_prefix_embeddings", "prefix_embeddings")],
)
@pytest.mark.parametrize("wrong", [2e-4, float("nan")])
def test_a_difference_is_exit_code_1(copied, capsys, recorded, name, wrong):
    rewrite(f"{copied}.cases.safetensors", lambda cases: cases[recorded].view(-1)[-1:].add_(wrong))
    assert main(["verify", "open-pi-zero", copied]) == 1
    verdict = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert verdict["ok"] is False
    assert [part for part, difference in verdict["max"].items() if difference > 1e-4] == [name]


def test_the_tolerance_is_the_users(copied):
    rewrite(f"{copied}.cases.safetensors", lambda cases: cases["expected_loss"].add_(2e-4))
    assert main(["verify", "open-pi-zero", copied, "--tolerance", "1e-3"]) == 0


class TestBadInput:
    @pytest.mark.parametrize("ending", ENDINGS)
    def test_a_missing_file(self, copied, refused, ending):
        Path(copied + ending).unlink()
        assert f"copy{ending}" in refused("verify", "open-pi-zero", copied)

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_a_file_cut_short(self, copied, refused, ending):
        path = Path(copied + ending)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert str(path) in refused("verify", "open-pi-zero", copied)

    def test_a_field_that_is_missing(self, copied, refused):
        path = Path(f"{copied}.config.json")
        values = json.loads(path.read_text())
        del values["head_dim"]
        path.write_text(json.dumps(values))
        assert "head_dim" in refused("verify", "open-pi-zero", copied)

    def test_sizes_of_another_checkpoint(self, copied, refused):
        path = Path(f"{copied}.config.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "vlm": {"width": 32, "mlp": 128}}))
        assert "expected_prefix_embeddings is 2x10x64, expected 2x10x32" in refused("verify", "open-pi-zero", copied)

    def test_sizes_that_no_model_has(self, copied, refused):
        path = Path(f"{copied}.config.json")
        values = json.loads(path.read_text())
        values["siglip"]["heads"] = 5  # of width 24
        path.write_text(json.dumps(values))
        assert "sizes" in refused("verify", "open-pi-zero", copied)

    def test_cases_that_lack_something(self, copied, refused):
        rewrite(f"{copied}.cases.safetensors", lambda cases: cases.pop("noise"))
        assert "missing noise" in refused("verify", "open-pi-zero", copied)

    def test_image_tokens_in_other_places(self, copied, refused):
        rewrite(f"{copied}.cases.safetensors", lambda cases: cases["input_ids"][0, 0].fill_(5))
        assert "4 times the image token 96" in refused("verify", "open-pi-zero", copied)
