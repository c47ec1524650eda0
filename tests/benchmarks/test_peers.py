"""The peers compute what ours computes: otherwise comparing their speeds would say nothing."""

from dataclasses import replace

import pytest
import torch
from peers.open_pi_zero import OpenPiZero
from peers.recompute import Recompute
from sizes import SIZES, build, random_actions, random_inputs, twin
from training_step import our_loss, peer_loss, problem

CPU = torch.device("cpu")
VARIANTS = {
    "depth": {},
    "no depth": {"depth": None},
    "two cameras": {"cameras": ("main", "wrist")},
    "soft cap": {"softcap": 2.0},  # low enough to change the result
    "clipped": {"clip_actions": 0.5},
    "two key heads": {"kv_heads": 2},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("peer", [OpenPiZero, Recompute])
def test_same_actions(peer, changes):
    config = replace(SIZES["tiny"], **changes)
    policy = build(config, torch.float32, CPU)
    inputs, noise = random_inputs(config, 3, torch.float32, CPU), random_actions(config, 3, CPU, seed=2)
    with torch.no_grad():
        ours = policy.chunk(inputs, noise)
    torch.testing.assert_close(peer(policy).chunk(inputs, noise), ours, atol=1e-5, rtol=0)
    assert (ours - noise).abs().max() > 0.1  # the flow went somewhere


def test_the_soft_cap_is_felt():
    chunks = []
    for softcap in (None, 2.0):
        config = replace(SIZES["tiny"], softcap=softcap)
        peer = OpenPiZero(build(config, torch.float32, CPU))
        chunks.append(peer.chunk(random_inputs(config, 1, torch.float32, CPU), random_actions(config, 1, CPU, seed=2)))
    assert (chunks[0] - chunks[1]).abs().max() > 1e-3


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_same_loss_and_gradients(changes):
    policy, batch = problem(replace(SIZES["tiny"], **changes), 3, CPU)
    gradients = []
    losses = [our_loss(policy, batch), peer_loss(OpenPiZero(policy), batch)]
    for loss in losses:
        policy.zero_grad()
        loss.backward()
        gradients.append(
            {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in policy.named_parameters()}
        )
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], gradient, atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert gradients[0]["vision_tower.embeddings.patch_embedding.weight"].abs().max() > 0


@pytest.mark.parametrize("changes", [{"conventions": "openpi"}, {"visibility": "dreamvla"}])
def test_what_the_peer_does_not_know_is_refused(changes):
    tiny = SIZES["tiny"]
    if "visibility" in changes:
        changes = {"depth": replace(tiny.depth, **changes)}
    policy = build(replace(tiny, **changes), torch.float32, CPU)
    with pytest.raises(ValueError, match="the peer knows"):
        OpenPiZero(policy)


def test_a_twin_shares_the_parameters():
    policy = build(SIZES["tiny"], torch.float32, CPU)
    other = twin(policy)
    theirs = dict(other.named_parameters())
    assert all(theirs[name].data_ptr() == p.data_ptr() for name, p in policy.named_parameters())
    config = policy.config
    inputs, noise = random_inputs(config, 1, torch.float32, CPU), random_actions(config, 1, CPU, seed=2)
    with torch.no_grad():
        torch.testing.assert_close(other.chunk(inputs, noise), policy.chunk(inputs, noise), atol=0, rtol=0)


def test_bf16_keeps_the_rotary_tables_in_fp32():
    config = SIZES["tiny"]
    policy = build(config, torch.bfloat16, CPU)
    assert {p.dtype for p in policy.parameters()} == {torch.bfloat16}
    for stream in policy.mixture.streams.values():
        expected = 10_000.0 ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
        assert stream.rotary_emb.inv_freq.dtype == torch.float32
        torch.testing.assert_close(stream.rotary_emb.inv_freq, expected)
