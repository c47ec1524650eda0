"""``fathom import pi0``: sizes, statistics, what is refused; for the numbers see test_pi0_matches_transformers.py."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PI0Config, PI0ForConditionalGeneration

from fathom import load_policy
from fathom.cli.main import main
from fathom.data.batch import Observation
from fathom.policies.qdepth_vla import QDepthVLA
from fathom.policies.weights.checkpoint import Checkpoint, Entry
from fathom.policies.weights.conversion import plan
from fathom.policies.weights.pi0 import KEYS, RELEASED, _sizes

STATE, ACTION = 6, 5


@pytest.fixture
def source(tokenizer) -> Path:
    """A small random π0 as transformers saves it, beside its tokenizer."""
    shared = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    text = {"model_type": "gemma", "hidden_size": 16, "intermediate_size": 32, "vocab_size": 60, **shared}
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = PI0Config(
        vlm_config={"model_type": "paligemma", "text_config": text, "vision_config": vision, "projection_dim": 16},
        dit_config={"model_type": "gemma", "hidden_size": 8, "intermediate_size": 16, **shared},
        chunk_size=3, max_state_dim=STATE, max_action_dim=ACTION, num_inference_steps=4,
    )  # fmt: skip
    PI0ForConditionalGeneration(config).save_pretrained(tokenizer)
    return tokenizer


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "policy"


@pytest.fixture
def imported(source, out) -> Callable[..., QDepthVLA]:
    def run(*options: object) -> QDepthVLA:
        arguments = ["import", "pi0", source, "--out", out, "--depth", "none", *options]
        assert main([str(argument) for argument in arguments]) == 0
        policy = load_policy(out)
        assert isinstance(policy, QDepthVLA)
        return policy

    return run


def change(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def add(folder: Path, **tensors: Tensor) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), **tensors}, path)


@pytest.fixture
def norm_stats(tmp_path) -> Path:
    random = np.random.default_rng(0)
    stats = {
        part: {"mean": random.normal(size=4).tolist(), "std": random.random(4).tolist(), "q01": None, "q99": None}
        for part in ("state", "actions")
    }
    path = tmp_path / "norm_stats.json"
    path.write_text(json.dumps({"norm_stats": stats}))
    return path


class TestStatistics:
    def test_openpis(self, imported, norm_stats):
        """Its formula, (x − mean) / (std + 1e-6); a robot with fewer numbers than the model keeps its own."""
        normalization = imported("--statistics", norm_stats).normalization
        stats = json.loads(norm_stats.read_text())["norm_stats"]
        values = torch.randn(7, 4, dtype=torch.float64)
        for part, scaling in (("state", normalization.state), ("actions", normalization.actions)):
            mean, std = (np.array(stats[part][name]) for name in ("mean", "std"))
            assert np.allclose(scaling.normalize(values), (values.numpy() - mean) / (std + 1e-6))
            assert np.allclose(scaling.unnormalize(values), values.numpy() * (std + 1e-6) + mean)

    def test_the_policy_acts_in_the_robots_own_numbers(self, imported, norm_stats):
        policy = imported("--statistics", norm_stats)
        picture = torch.zeros(1, 3, 28, 28, dtype=torch.uint8)
        actions = policy.sample_actions(Observation({"main": picture}, torch.zeros(1, 4), ["open the drawer"]))
        assert actions.shape == (1, 3, 4)

    def test_newer_lerobots_lie_beside_the_weights(self, source, imported):
        stats = {"action.mean": torch.arange(5.0), "action.std": torch.ones(5) * 2}
        stats |= {"observation.state.mean": torch.ones(6), "observation.state.std": torch.ones(6) * 4}
        stats |= {"observation.images.main.mean": torch.zeros(3, 1, 1), "action.max": torch.zeros(5)}
        save_file(stats, source / "policy_preprocessor_step_5_normalizer_processor.safetensors")
        normalization = imported().normalization
        torch.testing.assert_close(normalization.actions.unnormalize(torch.ones(5)), torch.arange(5.0) + 2)
        torch.testing.assert_close(normalization.state.normalize(torch.full((6,), 5.0)), torch.ones(6))

    def test_older_lerobots_are_among_the_weights(self, source, imported):
        mean, std = "buffer_{}.mean", "buffer_{}.std"
        stats = {}
        for module, part, size in (
            ("normalize_inputs", "observation_state", 6), ("normalize_targets", "action", 5),
            ("unnormalize_outputs", "action", 5),
        ):  # fmt: skip
            stats[f"{module}.{mean.format(part)}"] = torch.ones(size)
            stats[f"{module}.{std.format(part)}"] = torch.full((size,), 4.0)
        add(source, **stats)
        normalization = imported().normalization
        torch.testing.assert_close(normalization.state.normalize(torch.full((6,), 5.0)), torch.ones(6))
        torch.testing.assert_close(normalization.actions.unnormalize(torch.ones(5)), torch.full((5,), 5.0))

    def test_the_users_own_come_first(self, source, imported, norm_stats):
        stats = {
            f"{part}.{name}": torch.ones(4) for part in ("action", "observation.state") for name in ("mean", "std")
        }
        save_file(stats, source / "policy_preprocessor_step_5_normalizer_processor.safetensors")
        expected = json.loads(norm_stats.read_text())["norm_stats"]["actions"]["mean"]
        assert list(imported("--statistics", norm_stats).normalization.actions.offset) == pytest.approx(expected)

    def test_a_half_set_of_lerobots(self, source, out, refused):
        save_file(
            {"action.mean": torch.ones(5)}, source / "policy_preprocessor_step_5_normalizer_processor.safetensors"
        )
        assert "state should have mean and std" in refused("import", "pi0", source, "--out", out)
        assert not out.exists()

    def test_another_scaling(self, source, out, refused):
        change(source, normalization_mapping={"STATE": "QUANTILES", "ACTION": "MEAN_STD"})
        assert "QUANTILES" in refused("import", "pi0", source, "--out", out)
        assert not out.exists()


class TestSizes:
    def of(self, **values: object):
        return _sizes(values, Path("config.json"))

    def test_the_published_ones_are_openpis(self):
        """openpi's Pi0Config and its gemma_2b and gemma_300m."""
        assert self.of() == RELEASED
        assert (RELEASED.state_dim, RELEASED.action_dim, RELEASED.horizon, RELEASED.text_tokens) == (32, 32, 50, 48)
        assert (RELEASED.vlm_width, RELEASED.vlm_mlp, RELEASED.expert_width, RELEASED.expert_mlp) == (
            2048,
            16384,
            1024,
            4096,
        )
        assert RELEASED.convention.flow.data_time == 0
        assert RELEASED.softcap is None
        assert RELEASED.vocab_size == 257152

    def test_every_tensor_of_the_full_size_has_its_place(self):
        """Transformers' defaults are the published sizes; by name and shape, without their gigabytes."""
        with torch.device("meta"):
            model = PI0ForConditionalGeneration(PI0Config())
        entries = {k: Entry(tuple(v.shape), "BF16") for k, v in model.state_dict().items()}
        conversion = plan(Checkpoint(Path("full"), entries, lambda _: pytest.fail("read")), KEYS, RELEASED)
        assert conversion.unread == ["model.dit.embed_tokens.weight"]
        assert len(conversion.sources) == len(entries) - 1 == len(conversion.model.state_dict())

    def test_openpis_configuration(self):
        config = self.of(
            action_dim=24, action_horizon=16, paligemma_variant="gemma_300m", action_expert_variant="gemma_300m"
        )
        assert (config.state_dim, config.action_dim, config.horizon) == (24, 24, 16)
        assert (config.vlm_width, config.vlm_mlp) == (1024, 4096)

    def test_lerobots_configuration(self):
        values = {"max_state_dim": 20, "max_action_dim": 30, "chunk_size": 40, "n_action_steps": 10}
        config = self.of(
            type="pi0", **values, tokenizer_max_length=64, num_inference_steps=5, image_resolution=[448, 448]
        )
        assert (config.state_dim, config.action_dim, config.horizon) == (20, 30, 40)
        assert (config.text_tokens, config.flow_steps, config.vision.image_size) == (64, 5, 448)

    def test_older_lerobots_configuration(self):
        config = self.of(type="pi0", chunk_size=30, num_steps=7, proj_width=1024, max_state_dim=32, max_action_dim=32)
        assert (config.horizon, config.flow_steps) == (30, 7)

    def test_cameras_are_the_users(self, source, out):
        arguments = ["import", "pi0", str(source), "--out", str(out), "--cameras", "main", "left", "right"]
        assert main(arguments) == 0
        values = json.loads((out / "config.json").read_text())
        assert values["cameras"] == ["main", "left", "right"]
        assert values["depth"]["grid"] == 2
        assert values["conventions"] == "openpi"


class TestBadInput:
    @pytest.fixture
    def refuse(self, refused, source, out):
        def run(*options: object) -> str:
            said = refused("import", "pi0", source, "--out", out, *options)
            assert not out.exists()
            return said

        return run

    @pytest.mark.parametrize("key", ["time_mlp_in.weight", "model.time_mlp_in.weight"])
    def test_pi05_by_its_time(self, source, refuse, key):
        add(source, **{key: torch.zeros(8, 8)})
        assert "π0.5" in refuse()

    def test_pi05_by_its_norms(self, source, refuse):
        add(
            source, **{"paligemma_with_expert.gemma_expert.model.layers.0.input_layernorm.dense.weight": torch.zeros(2)}
        )
        assert "π0.5" in refuse()

    @pytest.mark.parametrize("field", [{"type": "pi05"}, {"model_type": "pi0_fast"}])
    def test_another_model(self, source, refuse, field):
        change(source, **field)
        assert "'pi0' is expected" in refuse()

    @pytest.mark.parametrize("name", ["use_relative_actions", "adapt_to_pi_aloha", "use_delta_joint_actions_aloha"])
    def test_actions_that_are_not_the_robots(self, source, refuse, name):
        change(source, **{name: True})
        assert name in refuse()

    @pytest.mark.parametrize(
        "wrong", [{"chunk_size": "long"}, {"dit_config": {"hidden_size": "wide"}}, {"dit_config": 3}, {"vlm_config": 3}]
    )
    def test_sizes_that_are_no_numbers(self, source, refuse, wrong):
        change(source, **wrong)
        assert str(source / "config.json") in refuse()

    def test_weights_of_another_width(self, source, refuse):
        change(source, max_action_dim=9)
        assert "expected 9x8" in refuse()

    def test_an_expert_that_does_not_fit_the_language_model(self, source, refuse):
        values = json.loads((source / "config.json").read_text())
        change(source, dit_config={**values["dit_config"], "num_hidden_layers": 2})
        assert "num_hidden_layers" in refuse()

    def test_a_missing_tokenizer(self, source, refuse):
        (source / "tokenizer.json").unlink()
        assert "tokenizer.json" in refuse()

    def test_cameras_without_main(self, refuse):
        assert "main" in refuse("--cameras", "wrist")

    def test_a_missing_tensor(self, source, refuse):
        weights = load_file(source / "model.safetensors")
        del weights["action_in_proj.weight"]
        save_file(weights, source / "model.safetensors")
        assert "missing action_in_proj.weight" in refuse()

    def test_statistics_of_another_robot(self, refuse, norm_stats):
        values = {part: {"mean": [0.0] * 7, "std": [1.0] * 7} for part in ("state", "actions")}
        norm_stats.write_text(json.dumps({"norm_stats": values}))
        assert "7 state components" in refuse("--statistics", norm_stats)

    def test_statistics_of_something_else(self, refuse, norm_stats):
        norm_stats.write_text('{"norm_stats": [3]}')
        assert str(norm_stats) in refuse("--statistics", norm_stats)
