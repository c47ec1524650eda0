"""The policy as a policy: it trains, acts, is saved and read, and tells a user's mistakes."""

import json
from dataclasses import replace

import pytest
import torch

from fathom.data.draws import Draws
from fathom.errors import UserError
from fathom.policies import load_policy
from fathom.policies.deepvision_vla import DeepVisionVLAConfig, ExpertConfig, PruningConfig

from .conftest import DEPTH, EXPERT, observation_of, tiny_config, with_

VARIANTS = {
    "paper": {},
    "baseline": {"expert": None},
    "chat": {"prompt": "chat"},
    "32 key heads": {"expert": with_(kv_heads=4)},
    "native positions": {"expert": with_(positions="native", which="uniform")},
    "no positions, first layers": {"expert": with_(positions="none", which="first", pruning=None)},
    "guided by the instruction": {"expert": with_(pruning=PruningConfig(guide="instruction", first_layer=1, keep=0.3))},
    "guided by cls": {"expert": with_(pruning=PruningConfig(guide="cls", first_layer=0))},
    "siglip": {"expert": with_(encoder="siglip")},
    "early": {"expert": with_(fusion="early")},
    "aligned": {"expert": with_(fusion="aligned")},
    "two cameras": {"cameras": ("main", "wrist"), "proprio": True},
    "both at once": {"depth": DEPTH, "proprio": True},
    "depth alone": {"depth": DEPTH, "expert": None},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_few_steps_of_training_lower_the_loss(name, make_policy, make_batch):
    policy = make_policy(**VARIANTS[name])
    batch = make_batch(cameras=policy.config.cameras)
    optimizer = torch.optim.AdamW(policy.parameters(), 2e-3)
    totals = []
    for _ in range(12):
        loss = policy.loss(batch, Draws(0)).total(0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert totals[-1] < 0.9 * totals[0]
    assert policy.eval().sample_actions(observation_of(batch)).shape == (3, 4, 3)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_saved_policy_acts_and_sees_as_before(name, make_policy, make_batch, tmp_path):
    policy = make_policy(**VARIANTS[name]).eval()
    observation = observation_of(make_batch(cameras=policy.config.cameras))
    policy.save(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert loaded.config == policy.config
    assert torch.equal(loaded.sample_actions(observation), policy.sample_actions(observation))
    if policy.config.depth:
        assert torch.equal(loaded.predict_depth(observation), policy.predict_depth(observation))
    suffixes = {path.suffix for path in (tmp_path / "policy").rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}


@pytest.mark.parametrize("name", ["paper", "both at once"])
def test_in_bf16_it_is_nearly_the_same(name, make_policy, make_batch, tmp_path):
    """As large policies act, and as they train: weights in bf16, and autocast."""
    policy, batch = make_policy(**VARIANTS[name]).eval(), make_batch()
    policy.save(tmp_path)
    half = load_policy(tmp_path, dtype=torch.bfloat16)
    exact = policy.sample_actions(observation_of(batch))
    torch.testing.assert_close(half.sample_actions(observation_of(batch)), exact, atol=0.05, rtol=0)
    expected = policy.loss(batch).total(0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = policy.loss(batch).total(0.1)
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=0.05, rtol=0.02)
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.parameters())


def test_every_part_learns(make_policy, make_batch):
    """All that anything reads has a gradient: tower, DeepStack, language model, expert, alignments, bias."""
    policy = make_policy(depth=DEPTH, proprio=True)
    policy.loss(make_batch()).total(0.1).backward()
    still = {name for name, p in policy.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    # The expert ends at the keys and values of its last layer: nothing reads what comes out of it.
    own, last = "mixture.streams.expert.own.", "mixture.streams.expert.own.layers.2."
    parts = ("attention.q_proj.", "attention.o_proj.", "layer_scale1.", "layer_scale2.", "norm2.", "mlp.")
    unread = (
        *(last + part for part in parts),
        "mixture.streams.expert.alignments.2.query.",
        "mixture.streams.expert.alignments.2.output.",
        own + "norm.",
        own + "embeddings.mask_token",
    )
    assert still == {name for name, _ in policy.named_parameters() if name.startswith(unread)}


def test_the_aligned_expert_is_not_trained_and_not_run_in_acting(make_policy, make_batch, monkeypatch):
    policy, batch = make_policy(expert=with_(fusion="aligned")), make_batch()
    losses = policy.loss(batch)
    assert losses.total(0.0) == losses.action + losses.alignment
    losses.total(0.0).backward()
    assert all(p.grad is None for p in policy.whole_expert.mixture.parameters())
    assert policy.whole_expert.project.weight.grad.abs().max() > 0
    policy.eval()
    monkeypatch.setattr(policy.whole_expert, "features", None)  # would raise if it were called
    policy.sample_actions(observation_of(batch))


def test_depth_needs_both_experts_to_be_told_from_one_another(make_policy):
    """Both at once: a depth expert reads the vision expert, actions read both, proprio reads no depth."""
    table = make_policy(depth=DEPTH, proprio=True).mixture.visibility
    assert table.sees("depth", "expert_main") and table.sees("action", "depth") and table.sees("action", "expert_main")
    assert not any(table.sees(query, "depth") for query in ("prompt", "proprio", "expert_main"))


def test_a_blind_policy_sees_nothing(make_policy, make_batch):
    policy = make_policy(blind=True).eval()
    one, other = make_batch(), make_batch(seed=1)
    changed = replace(observation_of(one), images=other.images)
    assert torch.equal(policy.sample_actions(observation_of(one)), policy.sample_actions(changed))


def test_how_pictures_lie_in_memory_does_not_matter(make_policy, make_batch):
    """Decoded frames lie channels-last; a tower without merging, as the recipes from scratch have it."""
    vision = replace(tiny_config().vision, merge=1, patch=8)
    policy, observation = make_policy(vision=vision).eval(), observation_of(make_batch())
    images = {name: image.contiguous(memory_format=torch.channels_last) for name, image in observation.images.items()}
    expected = policy.sample_actions(observation)
    torch.testing.assert_close(policy.sample_actions(replace(observation, images=images)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_tokens_are_those_of_the_pass(name, make_policy, make_batch, outputs_of):
    policy = make_policy(**VARIANTS[name]).eval()
    hidden = outputs_of(policy, observation_of(make_batch(cameras=policy.config.cameras)))
    assert {block: tokens.shape[1] for block, tokens in hidden.items()} == policy.config.tokens


def test_the_instruction_decides(make_policy, make_batch):
    policy, batch = make_policy().eval(), make_batch()
    other = replace(observation_of(batch), instruction=batch.instruction[::-1])
    assert not torch.allclose(policy.sample_actions(observation_of(batch)), policy.sample_actions(other), atol=1e-6)


class TestStart:
    def test_an_expert_that_is_not_there_stays_fresh(self, make_policy, tmp_path):
        """A vision expert and a depth expert on a trained baseline."""
        baseline = make_policy(expert=None)
        torch.nn.init.ones_(baseline.action_head[0].weight)
        baseline.save(tmp_path)
        grown = make_policy(depth=DEPTH, proprio=True)
        before = grown.mixture.streams["expert"].own.layers[0].norm1.weight.clone()
        fresh = grown.start_from(tmp_path, baseline.config)
        streams = ["mixture.streams.depth", "mixture.streams.expert"]
        assert fresh == ["depth_head", "mixture.bias", *streams, "proprio_encoder"]
        assert make_policy(expert=None).start_from(tmp_path, baseline.config) == []
        assert torch.equal(grown.action_head[0].weight, baseline.action_head[0].weight)
        assert torch.equal(grown.mixture.streams["expert"].own.layers[0].norm1.weight, before)

    def test_a_robot_with_more_actions(self, make_policy, tmp_path):
        small = make_policy()
        small.save(tmp_path)
        large = make_policy(action_dim=6)
        large.start_from(tmp_path, small.config)
        assert torch.equal(large.action_head[2].weight[:3], small.action_head[2].weight)
        assert large.action_head[2].weight[3:].abs().max() == 0

    def test_sizes_come_from_the_weights_and_choices_from_the_recipe(self):
        start = tiny_config()
        wish = replace(DeepVisionVLAConfig(), expert=ExpertConfig(reads="none", pruning=None), horizon=2)
        config = start.choosing_as(wish)
        assert (config.layers, config.expert.layers, config.expert.coupled) == (4, 3, 2)
        assert (config.horizon, config.expert.reads, config.expert.pruning) == (2, "none", None)
        assert start.choosing_as(replace(wish, expert=None)).expert is None

    @pytest.mark.parametrize(
        "wish",
        [
            {"fusion": "early"}, {"which": "first"}, {"kv_heads": 4}, {"coupled": 3}, {"encoder": "siglip"},
            {"bias": 0.0}, {"image_size": 64},
        ],
        ids=str,
    )  # fmt: skip
    def test_what_the_weights_were_not_made_for_is_refused(self, wish):
        """It would come back as it was, without a word."""
        (name,) = wish
        with pytest.raises(UserError, match=rf"policy\.expert\.{name} is .* in the recipe, but the weights"):
            EXPERT.choosing_as(with_(ExpertConfig(), **wish))
        same = tiny_config(expert=with_(**wish))
        assert same.choosing_as(same) == same
        assert same.choosing_as(DeepVisionVLAConfig(expert=ExpertConfig(pruning=None))).expert.pruning is None

    def test_early_fusion_begins_as_the_baseline(self, make_policy, make_batch):
        policy, baseline = make_policy(expert=with_(fusion="early")).eval(), make_policy(expert=None).eval()
        state, batch = policy.state_dict(), observation_of(make_batch())
        baseline.load_state_dict({name: state[name] for name in baseline.state_dict()})
        assert torch.equal(policy.sample_actions(batch), baseline.sample_actions(batch))


class TestBadInput:
    @pytest.mark.parametrize(
        "changes, told",
        [
            ({"coupled": 4, "layers": 3}, "only 3 layers"),
            ({"pruning": PruningConfig(keep=65, first_layer=0)}, "only 64 patch tokens"),
            ({"pruning": PruningConfig(guide="cls"), "encoder": "siglip"}, "no CLS token"),
            ({"image_size": 30}, "multiple of patch"),
        ],
    )
    def test_an_expert_that_cannot_be(self, changes, told):
        with pytest.raises(ValueError, match=told):
            with_(**changes)

    @pytest.mark.parametrize(
        "changes, told",
        [
            ({"expert": with_(layers=6, coupled=5)}, "language model has only 4 layers"),
            ({"expert": with_(kv_heads=3)}, "kv_heads is 3"),
            ({"expert": with_(pruning=PruningConfig(first_layer=2))}, "only the first 2 of the language model"),
            ({"expert": with_(pruning=PruningConfig(first_layer=1, last_layer=2))}, "only the first 2"),
            (
                {"expert": with_(pruning=PruningConfig(guide="cls", first_layer=1))},
                "only the first 1 of the vision expert",
            ),
            ({"depth": replace(DEPTH, visibility="dreamvla")}, "visibility"),
            ({"cameras": ("wrist",)}, "'main'"),
        ],
    )
    def test_sizes_that_do_not_fit(self, changes, told):
        with pytest.raises(ValueError, match=told):
            tiny_config(**changes)

    @pytest.mark.parametrize("keep", [0, 0.0, -1, 1.5])
    def test_a_share_that_is_none(self, keep):
        with pytest.raises(ValueError, match="keep"):
            PruningConfig(keep=keep)

    def test_too_many_kept_tokens_in_a_saved_configuration(self, make_policy, tmp_path):
        make_policy().save(tmp_path)
        path = tmp_path / "config.json"
        values = json.loads(path.read_text())
        values["expert"]["pruning"]["keep"] = 65
        path.write_text(json.dumps(values))
        with pytest.raises(UserError, match=r"config\.json.*only 64 patch tokens"):
            load_policy(tmp_path)

    def test_a_camera_of_another_aspect(self, make_policy, make_batch):
        batch = make_batch()
        wide = replace(observation_of(batch), images={"main": batch.images["main"][..., :30, :]})
        with pytest.raises(UserError, match=r"'main'.*40 x 30.*square"):
            make_policy().sample_actions(wide)

    def test_a_missing_camera(self, make_policy, make_batch):
        with pytest.raises(UserError, match="wrist"):
            make_policy(cameras=("main", "wrist")).sample_actions(observation_of(make_batch()))

    def test_an_instruction_that_is_too_long(self, make_policy, make_batch):
        long = replace(observation_of(make_batch()), instruction=["open the drawer " * 9] * 3)
        for prompt in ("plain", "chat"):
            with pytest.raises(UserError, match="text_tokens"):
                make_policy(prompt=prompt).sample_actions(long)

    def test_a_tokenizer_that_is_not_qwens(self, make_policy, tmp_path):
        make_policy().save(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "prompt": "chat"}))
        with pytest.raises(UserError, match="endoftext"):
            load_policy(tmp_path)

    def test_a_chat_without_qwens_tokenizer(self, make_policy):
        """As a training from scratch would have it."""
        policy = make_policy()
        with pytest.raises(ValueError, match="imported weights"):
            type(policy)(replace(policy.config, prompt="chat"), policy.normalization, policy.text_tokenizer)

    def test_depth_of_a_policy_without(self, make_policy, make_batch):
        with pytest.raises(UserError, match="without a depth expert"):
            make_policy().predict_depth(observation_of(make_batch()))
