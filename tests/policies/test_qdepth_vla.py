import json
from dataclasses import replace

import pytest
import torch

from fathom.data.batch import Observation
from fathom.data.draws import Draws
from fathom.errors import UserError
from fathom.policies import load_policy
from fathom.policies.qdepth_vla import VISIBILITY, DepthConfig, QDepthVLAConfig

from .conftest import DEPTH, INSTRUCTIONS, tiny_config, tiny_tokenizer

VARIANTS = {
    "paper": {},
    "pi0": {"depth": None},
    "openpi": {"conventions": "openpi"},
    "dreamvla": {"depth": replace(DEPTH, visibility="dreamvla")},
    "softcap": {"softcap": 50.0},
    "two cameras": {"cameras": ("main", "wrist")},
}


def observation_of(batch) -> Observation:
    return Observation(batch.images, batch.state, batch.instruction)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_few_steps_of_training_lower_the_loss(name, make_policy, make_batch):
    policy = make_policy(**VARIANTS[name])
    batch = make_batch(cameras=policy.config.cameras)
    optimizer = torch.optim.AdamW(policy.parameters(), 3e-3)
    totals = []
    for _ in range(25):
        loss = policy.loss(batch, Draws(0)).total(0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert totals[-1] < 0.7 * totals[0]
    assert policy.eval().sample_actions(observation_of(batch)).shape == (3, 4, 3)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_saved_policy_acts_and_sees_as_before(name, make_policy, make_batch, tmp_path):
    policy = make_policy(**VARIANTS[name]).eval()
    observation = observation_of(make_batch(cameras=policy.config.cameras))
    noise = torch.randn(3, 4, 3)
    policy.save(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert loaded.config == policy.config
    assert torch.equal(loaded.sample_actions(observation, noise), policy.sample_actions(observation, noise))
    if policy.config.depth:
        assert torch.equal(loaded.predict_depth(observation), policy.predict_depth(observation))
    suffixes = {path.suffix for path in (tmp_path / "policy").rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}


@pytest.mark.parametrize("name", VARIANTS)
def test_sampling_equals_integrating_without_a_cache(name, make_policy, make_batch):
    """Each flow step recomputed from scratch, prefix and all, gives the same actions."""
    policy = make_policy(**VARIANTS[name]).eval()
    observation = observation_of(make_batch(cameras=policy.config.cameras))
    noise = torch.randn(3, 4, 3)

    @torch.no_grad()
    def uncached(point, time):
        blocks = []
        original = policy.mixture.forward
        policy.mixture.forward = lambda given, *a, **k: (blocks.extend(given), original(given, *a, **k))[1]
        prefix = policy._prefix(policy.prepare(observation), with_depth=False)
        policy._velocity(prefix, point, time)
        del policy.mixture.forward
        hidden, _ = policy.mixture(blocks)
        return policy.action_decoder(hidden["action"])

    flow = policy.config.convention.flow
    expected = policy.normalization.actions.unnormalize(flow.integrate(uncached, noise, policy.config.flow_steps))
    torch.testing.assert_close(policy.sample_actions(observation, noise), expected, atol=1e-5, rtol=0)


def test_padded_actions_do_not_count(make_policy, make_batch):
    policy, batch = make_policy(), make_batch()
    pad = batch.action_is_pad.clone()
    pad[:, 2:] = True
    garbage = batch.actions.clone()
    garbage[:, 2:] = 0.3
    # Their content still enters as noisy input, so the noise-free part is compared: the gradient of the output.
    captured = []
    policy.action_decoder.register_forward_hook(lambda *args: captured.append(args[2]) or args[2].retain_grad())
    policy.loss(replace(batch, action_is_pad=pad), Draws(0)).action.backward()
    assert captured[0].grad[:, 2:].abs().max() == 0
    assert captured[0].grad[:, :2].abs().min() > 0


def test_more_flow_draws_are_the_mean_of_single_ones(make_policy, make_batch, monkeypatch):
    batch = make_batch()
    once, twice = make_policy().eval(), make_policy(flow_draws=2).eval()
    noise, time = torch.randn(6, 4, 3), torch.rand(6)
    monkeypatch.setattr("fathom.policies.flow.Flow.time_of", lambda *_: time_now)
    singles = []
    for draw in range(2):
        time_now = time[draw::2]
        monkeypatch.setattr(Draws, "normal", lambda *_, d=draw: noise[d::2, None])
        singles.append(once.loss(batch).action)
    time_now = time
    monkeypatch.setattr(Draws, "normal", lambda *_: noise.unflatten(0, (3, 2)))
    torch.testing.assert_close(twice.loss(batch).action, sum(singles) / 2, atol=1e-6, rtol=1e-5)


def test_the_depth_loss_trains_siglip_and_the_language_model_but_nothing_of_the_action_expert(make_policy, make_batch):
    """The depth loss trains SigLIP, undetached; the VQ-VAE stays frozen and no action weight is touched."""
    policy = make_policy()
    policy.loss(make_batch()).depth.backward()
    grads = {name: p.grad for name, p in policy.named_parameters()}
    reached = {name for name, grad in grads.items() if grad is not None and grad.abs().max() > 0}
    assert any(name.startswith("vision_tower") for name in reached)
    assert any(name.startswith("mixture.streams.vlm") for name in reached)
    assert not any(name.startswith(("action_", "proprio_", "mixture.streams.action")) for name in reached)
    assert not any(name.startswith("depth_tokenizer") for name in reached)
    assert not any(p.requires_grad for p in policy.depth_tokenizer.parameters())


def test_depth_loss_is_the_cross_entropy_of_equation_3(make_policy, make_batch):
    policy, batch = make_policy().eval(), make_batch()
    prefix = policy._prefix(policy.prepare(observation_of(batch)), with_depth=True)
    head = policy.depth_head
    latent = head.decoder(prefix.depth.mT.unflatten(2, (4, 4))).flatten(2).mT
    codebook = policy.depth_tokenizer.codebook
    distances = torch.stack([(latent - code).square().sum(-1) for code in codebook], -1)
    pairs = [(a - b).square().sum() for i, a in enumerate(codebook) for j, b in enumerate(codebook) if i != j]
    logits = -distances / torch.stack(pairs).mean()
    codes = policy.depth_tokenizer.encode(batch.depth)
    expected = -logits.log_softmax(-1).gather(-1, codes[..., None]).mean()
    torch.testing.assert_close(policy.loss(batch).depth, expected, atol=1e-4, rtol=1e-4)


def test_codes_computed_beforehand_give_the_same_loss(make_policy, make_batch):
    policy, batch = make_policy(), make_batch()
    codes = policy.depth_tokenizer.encode(batch.depth)
    early = policy.loss(replace(batch, depth=None, depth_codes=codes), Draws(0))
    late = policy.loss(batch, Draws(0))
    assert early.depth == late.depth


def test_a_blind_policy_sees_nothing(make_policy, make_batch):
    policy = make_policy(blind=True).eval()
    noise = torch.randn(3, 4, 3)
    one, other = make_batch(), make_batch(seed=1)
    changed = replace(observation_of(one), images=other.images)
    assert torch.equal(policy.sample_actions(observation_of(one), noise), policy.sample_actions(changed, noise))


def test_the_instruction_decides(make_policy, make_batch):
    policy, batch = make_policy().eval(), make_batch()
    noise = torch.randn(3, 4, 3)
    other = replace(observation_of(batch), instruction=INSTRUCTIONS[::-1])
    assert not torch.allclose(policy.sample_actions(observation_of(batch), noise), policy.sample_actions(other, noise))


def test_defaults_are_the_papers():
    config = QDepthVLAConfig()
    vlm, expert = config.gemma("vlm"), config.gemma("expert")
    assert (vlm.hidden_size, vlm.intermediate_size, vlm.num_hidden_layers) == (2048, 16384, 18)
    assert (expert.hidden_size, expert.intermediate_size) == (1024, 4096)
    assert (vlm.num_attention_heads, vlm.num_key_value_heads, vlm.head_dim) == (8, 1, 256)
    siglip = config.vision.siglip()
    assert (siglip.num_hidden_layers, siglip.hidden_size, siglip.intermediate_size) == (27, 1152, 4304)
    assert config.vision.grid**2 + config.text_tokens == 276
    assert config.depth == DepthConfig(grid=16, codes=256, code_dim=160, temperature="auto", visibility="hybrid")


def test_the_hybrid_table_is_the_papers_figure():
    seen = {query: set(VISIBILITY["hybrid"].reads[query].split()) for query in VISIBILITY["hybrid"].blocks}
    assert seen["image"] == seen["text"] == {"image", "text"}
    assert seen["depth"] == {"image", "text", "depth"}
    assert seen["proprio"] == {"image", "text", "proprio"}
    assert seen["action"] == {"image", "text", "depth", "proprio", "action"}


class TestBadInput:
    def test_no_policy_in_the_folder(self, tmp_path):
        with pytest.raises(UserError, match="no policy"):
            load_policy(tmp_path)

    def test_another_kind_of_policy(self, tmp_path):
        (tmp_path / "config.json").write_text('{"type": "rt1"}')
        with pytest.raises(UserError, match="'rt1'"):
            load_policy(tmp_path)

    def test_an_unknown_field(self, make_policy, tmp_path):
        make_policy().save(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "layerz": 3}))
        with pytest.raises(UserError, match="layerz"):
            load_policy(tmp_path)

    def test_weights_of_another_width(self, make_policy, tmp_path):
        make_policy().save(tmp_path)
        make_policy(expert_width=24).save(tmp_path / "other")
        (tmp_path / "other" / "model.safetensors").rename(tmp_path / "model.safetensors")
        with pytest.raises(UserError, match="does not fit its configuration"):
            load_policy(tmp_path)

    def test_a_truncated_weight_file(self, make_policy, tmp_path):
        make_policy().save(tmp_path)
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(UserError, match="damaged"):
            load_policy(tmp_path)

    @pytest.mark.parametrize("missing", ["normalization.json", "tokenizer.json", "model.safetensors"])
    def test_a_missing_part(self, missing, make_policy, tmp_path):
        make_policy().save(tmp_path)
        (tmp_path / missing).unlink()
        with pytest.raises(UserError, match=missing):
            load_policy(tmp_path)

    def test_a_missing_camera(self, make_policy, make_batch):
        policy = make_policy(cameras=("main", "wrist"))
        with pytest.raises(UserError, match="wrist"):
            policy.sample_actions(observation_of(make_batch()))

    def test_an_action_of_another_width(self, make_policy, make_batch):
        batch = make_batch()
        with pytest.raises(UserError, match="different robots"):
            make_policy().loss(replace(batch, actions=batch.actions[..., :2]))

    def test_an_instruction_that_is_too_long(self, make_policy, make_batch):
        observation = replace(observation_of(make_batch()), instruction=["open the drawer " * 5] * 3)
        with pytest.raises(UserError, match="text_tokens"):
            make_policy().sample_actions(observation)

    def test_depth_of_a_policy_without(self, make_policy, make_batch):
        with pytest.raises(UserError, match="without a depth expert"):
            make_policy(depth=None).predict_depth(observation_of(make_batch()))

    def test_a_tokenizer_of_another_size(self, make_policy):
        policy = make_policy()
        config = tiny_config(vocab_size=policy.config.vocab_size, depth=replace(DEPTH, grid=4))
        with pytest.raises(UserError, match="grid 8"):
            type(policy)(config, policy.normalization, policy.text_tokenizer, tiny_tokenizer())

    def test_a_grid_that_does_not_fit(self):
        with pytest.raises(ValueError, match="grid"):
            tiny_config(depth=DepthConfig(grid=5))
