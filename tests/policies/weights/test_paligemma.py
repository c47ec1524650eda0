"""``fathom import paligemma``: every layout that transformers has saved, and the same numbers afterwards."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from fathom.cli.main import main
from fathom.config import parse_config, read_json
from fathom.mixture import Block
from fathom.policies.conventions import count
from fathom.policies.qdepth_vla import QDepthVLA, QDepthVLAConfig
from fathom.policies.qdepth_vla.inputs import Inputs
from fathom.policies.weights.checkpoint import Checkpoint, Entry
from fathom.policies.weights.conversion import plan
from fathom.policies.weights.paligemma import KEYS, with_paligemma_sizes
from fathom.weights import load_weights

TEXT = {
    "model_type": "gemma", "hidden_size": 32, "intermediate_size": 64, "vocab_size": 60, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rms_norm_eps": 1e-5,
}  # fmt: skip
VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "layer_norm_eps": 1e-5,
}  # fmt: skip


@pytest.fixture(scope="module")
def theirs() -> PaliGemmaForConditionalGeneration:
    config = PaliGemmaConfig(text_config=TEXT, vision_config=VISION, projection_dim=32, image_token_index=59)
    model = PaliGemmaForConditionalGeneration(config).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


def published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """google/paligemma-3b-pt-224: the language model outside, no head."""
    result = {key.removeprefix("model."): value.clone() for key, value in weights.items() if key != "lm_head.weight"}
    result = {key.replace("language_model.", "language_model.model."): value for key, value in result.items()}
    return {key.replace("vision_tower.", "vision_tower.vision_model."): value for key, value in result.items()}


def older(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same as saved by transformers before 4.52: the head inside the language model."""
    return {**published(weights), "language_model.lm_head.weight": weights["lm_head.weight"].clone()}


def newer(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names inside transformers 4.52 and later."""
    return {k.replace("vision_tower.", "vision_tower.vision_model."): v.clone() for k, v in weights.items()}


def newest(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those inside transformers 5.23."""
    return {key: value.clone() for key, value in weights.items()}


LAYOUTS = {"published": published, "older": older, "newer": newer, "newest": newest}


@pytest.fixture
def save(theirs, tokenizer) -> Callable[..., Path]:
    """Saves the model into the folder that has the tokenizer."""

    def run(layout: str = "as transformers saves it", **options) -> Path:
        theirs.save_pretrained(tokenizer, **options)
        if layout in LAYOUTS:
            save_file(LAYOUTS[layout](theirs.state_dict()), tokenizer / "model.safetensors")
        return tokenizer

    return run


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "policy"


SMALL = ("--expert-width", "16", "--expert-mlp", "32")


def loaded(out: Path) -> QDepthVLA:
    values = read_json(out / "config.json", "policy")
    assert values.pop("type") == "qdepth_vla"
    policy = QDepthVLA(parse_config(QDepthVLAConfig, values, out))
    load_weights(policy, out / "model.safetensors")
    return policy.eval()


@torch.no_grad()
def check_same(policy: QDepthVLA, theirs: PaliGemmaForConditionalGeneration) -> None:
    """Image tokens, text tokens and what the language model makes of them."""
    pixels, ids = torch.rand(2, 3, 28, 28) * 2 - 1, torch.tensor([[3, 14, 15, 9], [2, 6, 5, 35]])
    state = torch.zeros(2, policy.config.state_dim)
    image, text = policy.embed_prefix(Inputs(pixels[:, None], ids, torch.ones_like(ids, dtype=torch.bool), state))
    features = theirs.model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(image, features, atol=1e-5, rtol=0)

    embeddings = torch.cat([features, theirs.get_input_embeddings()(ids)], 1)
    torch.testing.assert_close(torch.cat([image, text], 1), embeddings, atol=1e-5, rtol=0)
    everyone_sees_all = torch.zeros(2, 1, 8, 8)
    positions = count(embeddings[..., 0])
    expected = theirs.model.language_model(
        inputs_embeds=embeddings, attention_mask=everyone_sees_all, position_ids=positions
    ).last_hidden_state
    blocks = [Block("image", image, positions[:, :4]), Block("text", text, positions[:, 4:])]
    hidden, _ = policy.mixture(blocks)
    torch.testing.assert_close(torch.cat([hidden["image"], hidden["text"]], 1), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("layout", [*LAYOUTS, "as transformers saves it"])
def test_the_numbers_are_paligemmas(save, theirs, out, layout):
    assert main(["import", "paligemma", str(save(layout)), "--out", str(out), *SMALL]) == 0
    check_same(loaded(out), theirs)


def test_shards(save, theirs, out):
    source = save(max_shard_size="40KB")
    assert len(list(source.glob("model-*.safetensors"))) > 2
    assert main(["import", "paligemma", str(source), "--out", str(out), *SMALL]) == 0
    check_same(loaded(out), theirs)


def test_what_is_free_to_choose(save, out):
    options = (
        "--horizon",
        "16",
        "--state-dim",
        "9",
        "--action-dim",
        "8",
        "--cameras",
        "main",
        "wrist",
        "--text-tokens",
        "30",
    )
    assert main(["import", "paligemma", str(save()), "--out", str(out), *SMALL, *options]) == 0
    config = loaded(out).config
    assert (config.horizon, config.state_dim, config.action_dim, config.text_tokens) == (16, 9, 8, 30)
    assert config.cameras == ("main", "wrist")
    assert (config.depth.grid, config.depth.image_size) == (2, 32)


def test_without_depth(save, out):
    assert main(["import", "paligemma", str(save()), "--out", str(out), *SMALL, "--depth", "none"]) == 0
    assert loaded(out).config.depth is None


def test_the_experts_are_new_and_the_seed_decides(save, out, tmp_path, capsys):
    source = save()
    for folder, seed in ((out, "0"), (tmp_path / "again", "0"), (tmp_path / "other", "1")):
        main(["import", "paligemma", str(source), "--out", str(folder), *SMALL, "--seed", seed])
    one, again, other = (load_file(f / "model.safetensors") for f in (out, tmp_path / "again", tmp_path / "other"))
    assert all(torch.equal(one[key], again[key]) for key in one)
    different = {key for key in one if not torch.equal(one[key], other[key])}
    assert different
    assert not any(key.startswith(("mixture.streams.vlm.", "vision_tower.", "multi_modal")) for key in different)
    said = capsys.readouterr().out
    for part in (
        "mixture.streams.action",
        "mixture.streams.depth",
        "proprio_encoder",
        "action_encoder",
        "action_decoder",
    ):
        assert part in said


def test_the_tokenizer_is_copied_and_no_statistics_are_invented(save, out):
    source = save()
    main(["import", "paligemma", str(source), "--out", str(out), *SMALL])
    assert {path.name for path in out.iterdir()} == {
        "config.json", "model.safetensors", "provenance.json", "tokenizer.json",
    }  # fmt: skip
    assert (out / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


# google/paligemma-3b-pt-224's config.json, which leaves out what was the default when it was written.
PUBLISHED = {
    "model_type": "paligemma", "hidden_size": 2048, "image_token_index": 257152, "projection_dim": 2048,
    "text_config": {
        "hidden_size": 2048, "intermediate_size": 16384, "model_type": "gemma", "num_attention_heads": 8,
        "num_hidden_layers": 18, "num_image_tokens": 256, "num_key_value_heads": 1, "torch_dtype": "float32",
        "vocab_size": 257216,
    },
    "torch_dtype": "float32", "transformers_version": "4.41.0.dev0",
    "vision_config": {
        "hidden_size": 1152, "intermediate_size": 4304, "model_type": "siglip_vision_model",
        "num_attention_heads": 16, "num_hidden_layers": 27, "num_image_tokens": 256, "patch_size": 14,
        "projection_dim": 2048, "projector_hidden_act": "gelu_fast", "vision_use_head": False,
    },
}  # fmt: skip


def test_sizes_of_the_published_configuration():
    other = QDepthVLAConfig(vlm_width=1, vlm_mlp=1, layers=1, heads=2, kv_heads=2, head_dim=2, vocab_size=1, depth=None)
    assert with_paligemma_sizes(other, PUBLISHED, Path("config.json")) == QDepthVLAConfig(depth=None)


def test_every_tensor_of_the_full_size_has_its_place():
    """By name and shape, without their gigabytes."""
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(PaliGemmaConfig.from_dict(PUBLISHED))
    entries = {k: Entry(tuple(v.shape), "F32") for k, v in published(model.state_dict()).items()}
    conversion = plan(Checkpoint(Path("full"), entries, lambda _: pytest.fail("read")), KEYS, QDepthVLAConfig())
    assert len(conversion.sources) == len(entries)
    assert not conversion.unread
    assert not conversion.zeros
    assert sum(conversion.model.state_dict()[key].numel() for key in conversion.sources) == 2_923_466_480


class TestBadInput:
    @pytest.fixture
    def refuse(self, refused, out):
        def run(source: object) -> str:
            said = refused("import", "paligemma", source, "--out", out, *SMALL)
            assert not out.exists()
            return said

        return run

    def test_a_missing_tokenizer(self, save, refuse):
        source = save()
        (source / "tokenizer.json").unlink()
        assert f"{source} has no tokenizer.json" in refuse(source)

    def test_a_missing_configuration(self, save, refuse):
        source = save()
        (source / "config.json").unlink()
        assert "config.json" in refuse(source)

    def test_a_truncated_shard(self, save, refuse):
        source = save(max_shard_size="40KB")
        shard = sorted(source.glob("model-*.safetensors"))[1]
        shard.write_bytes(shard.read_bytes()[:-7])
        assert str(shard) in refuse(source)

    def test_weights_of_another_width(self, save, refuse):
        source = save()
        config = json.loads((source / "config.json").read_text())
        config["text_config"]["hidden_size"] = 40
        (source / "config.json").write_text(json.dumps(config))
        assert "expected 60x40" in refuse(source)

    @pytest.mark.parametrize(
        ("key", "value"), [("model_type", "llava"), ("text_config", {**TEXT, "model_type": "gemma2"})]
    )
    def test_another_model(self, save, refuse, key, value):
        source = save()
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps({**config, key: value}))
        assert str(source / "config.json") in refuse(source)

    def test_sizes_that_are_no_numbers(self, save, refuse):
        source = save()
        config = json.loads((source / "config.json").read_text())
        config["text_config"]["hidden_size"] = "wide"
        (source / "config.json").write_text(json.dumps(config))
        assert str(source / "config.json") in refuse(source)

    def test_a_head_that_is_not_the_embedding(self, save, refuse):
        source = save("older")
        weights = load_file(source / "model.safetensors")
        weights["language_model.lm_head.weight"][3, 4] += 1
        save_file(weights, source / "model.safetensors")
        assert "language_model.lm_head.weight" in refuse(source)

    def test_a_missing_and_an_unknown_tensor(self, save, refuse):
        source = save("published")
        weights = load_file(source / "model.safetensors")
        weights["language_model.model.layers.0.extra"] = weights.pop("language_model.model.embed_tokens.weight")
        save_file(weights, source / "model.safetensors")
        said = refuse(source)
        assert "missing language_model.model.embed_tokens.weight" in said
        assert "unknown language_model.model.layers.0.extra" in said

    def test_nothing_there(self, refuse, tmp_path):
        assert "no such folder" in refuse(tmp_path / "nothing")

    def test_cameras_without_main(self, save, refused, out):
        assert "main" in refused("import", "paligemma", save(), "--out", out, "--cameras", "wrist")


class TestTheHub:
    def test_a_folder_needs_no_network(self, save, out, monkeypatch):
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the network was asked"))
        assert main(["import", "paligemma", str(save()), "--out", str(out), *SMALL]) == 0

    def test_only_what_is_needed_is_downloaded(self, save, out, monkeypatch):
        asked = []

        def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
            asked.append((name, allow_patterns))
            return str(save())

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        assert main(["import", "paligemma", "google/any", "--out", str(out), *SMALL]) == 0
        assert asked == [("google/any", ["*.json", "*.safetensors"])]

    def test_a_repository_that_is_not_given_out(self, refused, out, monkeypatch):
        def gated(*_: object, **__: object) -> str:
            raise OSError("401 Client Error: you must be logged in\nmore lines")

        monkeypatch.setattr("huggingface_hub.snapshot_download", gated)
        assert "logged in" in refused("import", "paligemma", "google/any", "--out", out)
