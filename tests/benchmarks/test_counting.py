"""The counted work against what torch counts while transformers' own models run."""

from dataclasses import replace

import counting
import pytest
import torch
from peers.open_pi_zero import OpenPiZero
from sizes import SIZES, build, random_actions, random_inputs
from torch.utils.flop_counter import FlopCounterMode
from training_step import our_loss, problem
from transformers import GemmaModel, SiglipVisionModel

CPU = torch.device("cpu")
CONFIG = SIZES["tiny"]


def flops_of(work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("cameras", [1, 2])
def test_the_encoder_is_transformers(cameras):
    config = replace(CONFIG, cameras=("main", "wrist")[:cameras])
    tower = SiglipVisionModel(config.vision.siglip())
    projector = torch.nn.Linear(config.vision.width, config.vlm_width)
    pixels = torch.zeros(cameras, 3, config.vision.image_size, config.vision.image_size)
    counted = counting.chunk_phases(config, 4)["vision"]
    assert counted.flops == flops_of(lambda: projector(tower(pixels).last_hidden_state))
    matrices = [
        p for n, p in [*tower.named_parameters(), *projector.named_parameters()] if p.ndim > 1 and "position" not in n
    ]
    assert counted.bytes == 4 * sum(matrix.numel() for matrix in matrices)


def test_a_stream_is_transformers_gemma():
    tokens = 11
    gemma_config = CONFIG.gemma("vlm")
    gemma_config._attn_implementation = "eager"
    gemma = GemmaModel(gemma_config)
    hidden = torch.zeros(1, tokens, CONFIG.vlm_width)
    ran = flops_of(lambda: gemma(inputs_embeds=hidden, use_cache=False))
    rotary = 2 * tokens * CONFIG.head_dim // 2  # transformers makes the angles by a matrix product
    counted = counting._stream(CONFIG, "vlm", tokens, tokens)
    assert ran - counted.flops in (0, rotary)
    matrices = (p.numel() for n, p in gemma.named_parameters() if p.ndim > 1 and "embed" not in n)
    assert counted.bytes == sum(matrices)


@pytest.mark.parametrize("depth", [True, False])
def test_ours_does_little_more_than_it_must(depth):
    """The count lacks what ours computes of pairs that are then masked, and holds nothing that ours does not do."""
    config = replace(CONFIG, depth=CONFIG.depth if depth else None)
    policy = build(replace(config, attention="eager"), torch.float32, CPU)
    inputs, noise = random_inputs(config, 1, torch.float32, CPU), random_actions(config, 1, CPU, seed=2)
    needed = sum(phase.flops for phase in counting.chunk_phases(config, 4).values())
    with torch.no_grad():
        ran = flops_of(lambda: policy.chunk(inputs, noise))
    assert needed <= ran <= 1.5 * needed
    assert flops_of(lambda: OpenPiZero(policy).chunk(inputs, noise)) > needed


def test_training_is_three_forward_passes():
    policy, batch = problem(replace(CONFIG, attention="eager"), 2, CPU)
    ran = flops_of(lambda: our_loss(policy, batch).backward())
    assert 0.85 * ran <= 2 * counting.training_flops(CONFIG) <= ran


def test_the_floor_is_each_phase_at_its_own_limit():
    peak = counting.Peak(flops=100.0, bandwidth=10.0, source="")
    slow_to_compute, slow_to_read = counting.Work(200.0, 1.0), counting.Work(1.0, 30.0)
    assert peak.floor(slow_to_compute) == 2.0
    assert peak.floor(slow_to_read) == 3.0
    assert peak.floor(slow_to_compute, slow_to_read) == 5.0


def test_the_3b_chunk_reads_every_weight_and_the_action_expert_ten_times():
    """By hand: 311 M parameters per expert less the norms, 10 times, in 2 bytes each, and 10 times the cache."""
    config = SIZES["3b"]
    layer = 2 * 1024 * 2048 + 2 * 1024 * 256 + 3 * 1024 * 4096
    ends = 2 * 7 * 1024 + 3 * 1024 * 1024
    cache = 18 * 2 * 256 * (256 + 20 + 256 + 1)
    assert counting.chunk_phases(config, 2)["flow"].bytes == 10 * 2 * (18 * layer + ends + cache)
