"""``fathom import open-pi-zero``: the published layout in, the same actions out."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fathom import load_policy
from fathom.cli.main import main
from fathom.config import parse_config, read_json
from fathom.errors import UserError
from fathom.policies.qdepth_vla import QDepthVLA, QDepthVLAConfig
from fathom.policies.qdepth_vla.inputs import Inputs
from fathom.policies.weights.open_pi_zero import RELEASED
from fathom.weights import load_weights

STATISTICS = {
    "action": {"p01": [-2.0, -1.0, 0, 0, 0, 0, 0], "p99": [2.0, 3.0, 1, 1, 1, 1, 1], "mean": [0.0] * 7},
    "proprio": {"p01": [-1.0] * 7, "p99": [3.0] * 7},
    "num_transitions": 3,
}


@pytest.fixture
def statistics(tmp_path) -> Path:
    path = tmp_path / "statistics.json"
    path.write_text(json.dumps(STATISTICS))
    return path


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "policy"


@pytest.fixture
def arguments(golden, tokenizer, statistics, out) -> list[str]:
    """All but the checkpoint."""
    options = {"--config": f"{golden}.config.json", "--tokenizer": tokenizer, "--statistics": statistics, "--out": out}
    return ["import", "open-pi-zero", *(str(word) for option in options.items() for word in option)]


def published(golden: str, path: Path) -> Path:
    """The golden weights as open-pi-zero's training saves them: compiled, beside counters and the optimiser."""
    weights = {f"_orig_mod.{key}": value for key, value in load_file(f"{golden}.weights.safetensors").items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 5e-5, "params": [0]}]}
    torch.save({"cnt_update": 19296, "model": weights, "action_optimizer": optimizer, "wandb_id": "abc"}, path)
    return path


def chunk(policy: QDepthVLA, golden: str) -> torch.Tensor:
    cases = load_file(f"{golden}.cases.safetensors")
    text, valid = cases["input_ids"][:, 4:], cases["attention_mask"][:, 4:].bool()
    inputs = Inputs(cases["pixel_values"][:, None], text, valid, cases["proprio"][:, 0])
    with torch.no_grad():
        return policy.chunk(inputs, cases["noise"])


@pytest.mark.parametrize("form", ["published", "safetensors"])
def test_the_same_actions(golden, arguments, out, tmp_path, form):
    checkpoint = published(golden, tmp_path / "step.pt") if form == "published" else f"{golden}.weights.safetensors"
    assert main([*arguments, str(checkpoint), "--depth", "none"]) == 0
    policy = load_policy(out)
    assert isinstance(policy, QDepthVLA)
    assert policy.config.depth is None
    expected = load_file(f"{golden}.cases.safetensors")["expected_actions"]
    torch.testing.assert_close(chunk(policy, golden), expected, atol=1e-5, rtol=0)


def test_the_folder_needs_nothing_else(golden, arguments, out, tmp_path):
    """It moves, its sources go, and it still reads an instruction and gives actions in the robot's units."""
    checkpoint = published(golden, tmp_path / "step.pt")
    main([*arguments, str(checkpoint), "--depth", "none"])
    checkpoint.unlink()
    moved = out.rename(tmp_path / "elsewhere")
    assert {path.name for path in moved.iterdir()} == {
        "config.json", "model.safetensors", "normalization.json", "provenance.json", "tokenizer.json",
    }  # fmt: skip
    policy = load_policy(moved)
    scaling = policy.normalization.actions
    torch.testing.assert_close(scaling.unnormalize(torch.ones(7)), torch.tensor([2.0, 3, 1, 1, 1, 1, 1]))


def test_the_depth_expert_is_added_and_the_rest_is_as_without(golden, arguments, out, tmp_path):
    main([*arguments, f"{golden}.weights.safetensors"])
    main([*arguments, f"{golden}.weights.safetensors", "--depth", "none", "--out", str(tmp_path / "plain")])
    values = read_json(out / "config.json", "policy")
    assert values.pop("type") == "qdepth_vla"
    config = parse_config(QDepthVLAConfig, values, out)
    assert config.depth
    assert config.depth.grid == config.vision.grid == 2
    load_weights(QDepthVLA(config), out / "model.safetensors")  # strict
    both, plain = load_file(out / "model.safetensors"), load_file(tmp_path / "plain" / "model.safetensors")
    assert all(torch.equal(both[key], plain[key]) for key in plain)
    assert {key.split(".")[0] for key in both.keys() - plain.keys()} == {"depth_head", "mixture"}
    with pytest.raises(UserError, match="start for training"):
        load_policy(out)


def test_it_says_what_it_did(golden, arguments, capsys):
    weights = load_file(f"{golden}.weights.safetensors")
    main([*arguments, f"{golden}.weights.safetensors"])
    said = capsys.readouterr().out
    assert f"{len(weights) - sum('proprio.' in key for key in weights)} tensors from" in said
    assert "depth_head, mixture.streams.depth" in said
    assert "mixture.streams.vlm.norm.weight" in said  # zero: open-pi-zero has none


def test_without_statistics_it_is_a_start_for_training(golden, tokenizer, out, capsys):
    sizes = f"{golden}.config.json"
    weights = f"{golden}.weights.safetensors"
    options = ["--tokenizer", str(tokenizer), "--depth", "none", "--out", str(out), "--config", sizes]
    assert main(["import", "open-pi-zero", weights, *options]) == 0
    assert "no statistics" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"normalization\.json"):
        load_policy(out)


def test_the_tokenizer_may_lie_beside_the_checkpoint(golden, tokenizer, out):
    weights = Path(f"{golden}.weights.safetensors").read_bytes()
    (tokenizer / "any.safetensors").write_bytes(weights)
    arguments = ["--config", f"{golden}.config.json", "--out", str(out)]
    assert main(["import", "open-pi-zero", str(tokenizer / "any.safetensors"), *arguments]) == 0
    assert (out / "tokenizer.json").read_bytes() == (tokenizer / "tokenizer.json").read_bytes()


def test_the_released_sizes_are_the_papers():
    """PaliGemma-3B and open-pi-zero's evaluation settings (config/eval/bridge.yaml there)."""
    assert (RELEASED.vlm_width, RELEASED.vlm_mlp, RELEASED.expert_width, RELEASED.expert_mlp) == (
        2048,
        16384,
        1024,
        4096,
    )
    assert (RELEASED.layers, RELEASED.heads, RELEASED.kv_heads, RELEASED.head_dim) == (18, 8, 1, 256)
    assert (RELEASED.horizon, RELEASED.action_dim, RELEASED.text_tokens, RELEASED.vocab_size) == (4, 7, 20, 257216)
    assert (RELEASED.softcap, RELEASED.clip_actions, RELEASED.flow_steps) == (50, 1, 10)
    assert (RELEASED.convention.flow.sigma_min, RELEASED.convention.time_embedding.max_period) == (0.001, 10000)
    assert (RELEASED.rope_theta, RELEASED.expert_rope_theta) == (10000, 10000)


class TestStatistics:
    def test_quantiles_become_one_and_are_clipped(self, golden, arguments, out):
        main([*arguments, f"{golden}.weights.safetensors", "--depth", "none"])
        state = load_policy(out).normalization.state
        values = torch.tensor([-5.0, -1.0, 0.0, 1.0, 3.0, 5.0, 2.0])
        expected = torch.tensor([-1.0, -1.0, -0.5, 0.0, 1.0, 1.0, 0.5])
        torch.testing.assert_close(state.normalize(values), expected)

    def test_they_are_open_pi_zeros(self, golden, arguments, out, statistics):
        """Against its formula, with Bridge-like numbers; the gripper, last, is not scaled."""
        random = np.random.default_rng(0)
        low, high = -random.random(7), random.random(7)
        content = {part: {"p01": low.tolist(), "p99": high.tolist()} for part in ("action", "proprio")}
        statistics.write_text(json.dumps(content))
        main([*arguments, f"{golden}.weights.safetensors", "--depth", "none"])
        normalization = load_policy(out).normalization
        values = random.uniform(-0.5, 0.5, (100, 7))
        scaled = np.clip(2 * (values - low) / (high - low + 1e-8) - 1, -1, 1)
        assert np.allclose(normalization.state.normalize(torch.from_numpy(values)), scaled, atol=1e-6)
        scaled[:, 6] = values[:, 6]
        assert np.allclose(normalization.actions.normalize(torch.from_numpy(values)), scaled, atol=1e-6)

    def test_a_mask_says_which_actions_are_scaled(self, golden, arguments, out, statistics):
        content = {**STATISTICS, "action": {**STATISTICS["action"], "mask": [False] + [True] * 6}}
        statistics.write_text(json.dumps(content))
        main([*arguments, f"{golden}.weights.safetensors", "--depth", "none"])
        actions = load_policy(out).normalization.actions
        torch.testing.assert_close(
            actions.unnormalize(torch.ones(7)), torch.ones(7) + torch.tensor([0, 2.0, 0, 0, 0, 0, 0])
        )

    @pytest.mark.parametrize(
        "content",
        [
            "{",
            "[]",
            "{}",
            '{"action": 3}',
            '{"action": {"p01": [1], "p99": ["a"]}}',
            '{"action": {"p01": [1], "p99": [1, 2]}}',
        ],
    )
    def test_a_file_of_something_else(self, golden, arguments, refused, statistics, out, content):
        statistics.write_text(content)
        assert str(statistics) in refused(*arguments, f"{golden}.weights.safetensors")
        assert not out.exists()

    def test_those_of_another_robot(self, golden, arguments, refused, statistics, out):
        content = {part: {"p01": [0.0] * 9, "p99": [1.0] * 9} for part in ("action", "proprio")}
        statistics.write_text(json.dumps(content))
        said = refused(*arguments, f"{golden}.weights.safetensors")
        assert "9 state components" in said
        assert not out.exists()


class TestBadInput:
    def test_a_checkpoint_of_another_width(self, golden, tokenizer, refused, out):
        """Small weights where those of the published size are expected."""
        arguments = ("import", "open-pi-zero", f"{golden}.weights.safetensors", "--tokenizer", tokenizer, "--out", out)
        said = refused(*arguments)
        assert "action_decoder.weight is 7x32, expected 7x1024" in said
        assert " more" in said
        assert not out.exists()

    def test_a_missing_tokenizer(self, golden, refused, out, tmp_path):
        checkpoint = published(golden, tmp_path / "step.pt")
        said = refused("import", "open-pi-zero", checkpoint, "--config", f"{golden}.config.json", "--out", out)
        assert "tokenizer.json" in said
        assert not out.exists()

    def test_a_tokenizer_that_is_none(self, golden, arguments, refused, tokenizer, out):
        (tokenizer / "tokenizer.json").write_text("{}")
        assert "tokenizer" in refused(*arguments, f"{golden}.weights.safetensors")
        assert not out.exists()

    def test_a_tokenizer_of_another_model(self, arguments, refused, make_checkpoint, tokenizer, out):
        prefix = make_checkpoint(vocab_size=5, image_token_index=4)
        arguments = [*arguments, "--config", f"{prefix}.config.json"]
        assert "another model" in refused(*arguments, f"{prefix}.weights.safetensors")
        assert not out.exists()

    def test_a_pickle_that_carries_code(self, golden, arguments, refused, out, tmp_path):
        class Evil:
            def __reduce__(self):
                return os.system, (f"touch {tmp_path / 'trace'}",)

        path = tmp_path / "step.pt"
        path.write_bytes(pickle.dumps({"model": Evil()}))
        assert "could run code" in refused(*arguments, path)
        assert not (tmp_path / "trace").exists()
        assert not out.exists()

    def test_a_file_cut_short(self, golden, arguments, refused, out, tmp_path):
        path = published(golden, tmp_path / "step.pt")
        path.write_bytes(path.read_bytes()[:-1000])
        assert "cut short" in refused(*arguments, path)
        assert not out.exists()

    def test_a_policy_is_not_replaced(self, golden, arguments, refused, out):
        main([*arguments, f"{golden}.weights.safetensors", "--depth", "none"])
        before = (out / "model.safetensors").read_bytes()
        assert str(out) in refused(*arguments, f"{golden}.weights.safetensors")
        assert (out / "model.safetensors").read_bytes() == before

    def test_a_full_disk_leaves_no_policy(self, golden, arguments, refused, out, monkeypatch):
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("fathom.files.sync", full)
        assert "disk is full" in refused(*arguments, f"{golden}.weights.safetensors")
        assert not (out / "config.json").exists()


def test_the_proprio_of_the_published_checkpoints_differs_by_dataset(golden, refused, tmp_path, tokenizer):
    """Seven numbers for Bridge, eight for Fractal: the checkpoint says it, so neither is a complaint."""
    for width in (7, 8):
        path = tmp_path / f"{width}.safetensors"
        save_file({"proprio_encoder.weight": torch.zeros(1024, width)}, path)
        said = refused("import", "open-pi-zero", path, "--tokenizer", tokenizer, "--out", tmp_path / "out")
        assert "proprio_encoder.weight" not in said
