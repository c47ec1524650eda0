"""Saving to the hub and loading from it, with the hub itself replaced by a folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard

import fathom
from fathom.errors import UserError
from fathom.policies import Policy
from fathom.policies.card import Provenance
from fathom.policies.qdepth_vla import QDepthVLA

from .test_qdepth_vla import observation_of


@pytest.fixture
def policy(make_policy):
    policy = make_policy().eval()
    policy.provenance = Provenance(
        recipe={"training": {"steps": 950, "optimizer": {"lr": 5e-5}}},
        data={"dataset": "libero_spatial", "episodes": 432},
        metrics={"action_loss": 0.0123},
        base="google/paligemma-3b-pt-224",
        licence="gemma",
    )
    return policy


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """What is pushed lands here, and is downloaded from here."""
    root = tmp_path / "hub"

    def upload(self, *, repo_id, folder_path, **_):
        shutil.copytree(folder_path, root / repo_id)

    def download(repo_id, *, allow_patterns, revision=None, **_):
        assert revision in (None, "v2")
        if not (root / repo_id).is_dir():
            raise OSError("404 Client Error: repository not found")
        folder = tmp_path / "cache" / repo_id
        for path in (root / repo_id).rglob("*"):
            relative = path.relative_to(root / repo_id)
            if path.is_file() and any(relative.match(pattern) for pattern in allow_patterns):
                (folder / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / relative)
        return str(folder)

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: type("Repo", (), {"repo_id": repo_id})())
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return root


def test_a_pushed_policy_comes_back_as_it_was(policy, make_batch, hub):
    policy.push_to_hub("someone/arm")
    observation, noise = observation_of(make_batch()), torch.randn(3, 4, 3)
    for loaded in (
        fathom.load_policy("someone/arm"),
        QDepthVLA.from_pretrained("someone/arm", revision="v2"),
        Policy.from_pretrained("someone/arm"),
    ):
        assert torch.equal(loaded.sample_actions(observation, noise), policy.sample_actions(observation, noise))
        assert torch.equal(loaded.predict_depth(observation), policy.predict_depth(observation))
        assert loaded.provenance == policy.provenance


def test_its_card_carries_recipe_data_metrics_and_licence(policy, hub, tmp_path):
    entry = {"n": 20, "successes": 19, "rate": 0.95, "low": 0.764, "high": 0.991}
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"suite": "metaworld", "protocol": {"episodes": 20}, "summary": {"overall": entry}}))
    policy.push_to_hub("someone/arm", model_card_kwargs={"results": [results]})
    card = ModelCard.load(hub / "someone" / "arm" / "README.md")
    assert (card.data.license, card.data.base_model) == ("gemma", "google/paligemma-3b-pt-224")
    assert {"robotics", "depth", "qdepth_vla"} <= set(card.data.tags)
    for said in ("| training.optimizer.lr | 5e-05 |", "| dataset | libero_spatial |", "| action_loss | 0.0123 |"):
        assert said in card.text
    assert "| overall | 19/20 | 76%–99% |" in card.text
    assert card.text.rstrip().endswith("## Licence\n\ngemma")


def test_save_pretrained_is_save(policy, tmp_path):
    policy.save_pretrained(tmp_path / "a")
    policy.save(tmp_path / "b")
    for path in (tmp_path / "b").rglob("*"):
        if path.is_file():
            assert (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes() == path.read_bytes()


def test_what_is_neither_a_folder_nor_on_the_hub(hub):
    with pytest.raises(UserError, match=r"^someone/nothing: there is no such folder, and the hub .*not found"):
        fathom.load_policy("someone/nothing")
    with pytest.raises(UserError, match=r"^runs/a/policy: .* no hub id"):
        fathom.load_policy("runs/a/policy")


def test_a_policy_loaded_in_bf16_acts_nearly_the_same_in_half_the_memory(policy, make_batch, tmp_path):
    policy.save(tmp_path / "policy")
    half = fathom.load_policy(tmp_path / "policy", dtype=torch.bfloat16)
    assert {p.dtype for name, p in half.named_parameters() if "depth_tokenizer" not in name} == {torch.bfloat16}
    assert half.mixture.streams["vlm"].rotary_emb.inv_freq.dtype == torch.float32
    observation, noise = observation_of(make_batch()), torch.randn(3, 4, 3)
    expected = policy.sample_actions(observation, noise)
    actions = half.sample_actions(observation, noise)
    assert actions.dtype == torch.float32
    assert (actions - expected).abs().max() < 0.1 * expected.abs().max()
    assert half.predict_depth(observation).isfinite().all()
