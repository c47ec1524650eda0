import math

import pytest
import torch
from scipy import stats

from fathom.policies.conventions import CONVENTIONS
from fathom.policies.flow import Flow
from fathom.policies.qdepth_vla.action_encoder import ActionEncoder


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_flow_runs_from_noise_to_data(name):
    flow = CONVENTIONS[name].flow
    actions, noise = torch.randn(5, 4, 3), torch.randn(5, 4, 3)
    at_data, _ = flow.interpolate(actions, noise, torch.full((5,), float(flow.data_time)))
    at_noise, _ = flow.interpolate(actions, noise, torch.full((5,), 1.0 - flow.data_time))
    torch.testing.assert_close(at_noise, noise)
    torch.testing.assert_close(at_data, actions + flow.sigma_min * noise)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_target_is_the_derivative_of_the_point(name):
    flow = CONVENTIONS[name].flow
    actions, noise = torch.randn(5, 4, 3).double(), torch.randn(5, 4, 3).double()
    time = torch.rand(5).double() * 0.9
    before, velocity = flow.interpolate(actions, noise, time)
    after, _ = flow.interpolate(actions, noise, time + 1e-3)
    torch.testing.assert_close((after - before) / 1e-3, velocity, atol=1e-8, rtol=0)


def test_published_formulas():
    """open-pi-zero: (1 - (1 - s) t) e + t A, target A - (1 - s) e.  openpi: t e + (1 - t) A, target e - A."""
    actions, noise, t = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.tensor([0.3, 0.8])
    s, tt = 0.001, t[:, None, None]
    point, target = CONVENTIONS["open_pi_zero"].flow.interpolate(actions, noise, t)
    torch.testing.assert_close(point, (1 - (1 - s) * tt) * noise + tt * actions)
    torch.testing.assert_close(target, actions - (1 - s) * noise)
    point, target = CONVENTIONS["openpi"].flow.interpolate(actions, noise, t)
    torch.testing.assert_close(point, tt * noise + (1 - tt) * actions)
    torch.testing.assert_close(target, noise - actions)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_integrating_the_true_velocity_arrives_at_the_data(name):
    flow = CONVENTIONS[name].flow
    actions, noise = torch.randn(5, 4, 3), torch.randn(5, 4, 3)
    _, velocity = flow.interpolate(actions, noise, torch.zeros(5))
    seen = []
    arrived = flow.integrate(lambda point, time: (seen.append(time[0].item()), velocity)[1], noise, 10)
    torch.testing.assert_close(arrived, actions + flow.sigma_min * noise, atol=1e-5, rtol=1e-5)
    first = 1.0 - flow.data_time
    assert seen == pytest.approx([abs(first - k / 10) for k in range(10)], abs=1e-6)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_training_times_follow_the_published_beta(name):
    flow = CONVENTIONS[name].flow
    times = flow.time_of(torch.rand(20_000, generator=torch.Generator().manual_seed(0)))
    # openpi: t = 0.999 b + 0.001; open-pi-zero: t = 0.999 (1 - b)
    beta = (times - 0.001) / 0.999 if name == "openpi" else 1 - times / 0.999
    assert stats.kstest(beta.double().numpy(), stats.beta(1.5, 1).cdf).pvalue > 0.01


def test_time_embeddings_by_their_formulas():
    time = torch.tensor([0.0, 0.37, 1.0])
    ours = CONVENTIONS["open_pi_zero"].time_embedding(time, 8)
    for row, t in enumerate(time.tolist()):
        angles = [t * math.exp(-math.log(10_000) * i / 3) for i in range(4)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert ours[row].tolist() == pytest.approx(expected, abs=1e-6)
    ours = CONVENTIONS["openpi"].time_embedding(time, 8)
    for row, t in enumerate(time.tolist()):
        angles = [2 * math.pi * t / (0.004 * 1000 ** (i / 3)) for i in range(4)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert ours[row].tolist() == pytest.approx(expected, abs=2e-4)  # float32 time times 1571 rad


def test_positions_of_both_families():
    valid = torch.tensor([[True, True, True, False], [True, True, True, True]])
    restart, run_on = CONVENTIONS["open_pi_zero"], CONVENTIONS["openpi"]
    assert restart.prefix_positions(valid).tolist() == [[1, 2, 3, 4], [1, 2, 3, 4]]
    assert restart.suffix_positions(valid, 3).tolist() == [[1, 2, 3], [1, 2, 3]]
    assert run_on.prefix_positions(valid).tolist() == [[0, 1, 2, 2], [0, 1, 2, 3]]
    assert run_on.suffix_positions(valid, 3).tolist() == [[3, 4, 5], [4, 5, 6]]


@pytest.mark.parametrize("name", CONVENTIONS)
def test_times_in_bf16_are_embedded_as_exactly_as_others(name):
    """A bf16 time is the number it is: its embedding is that of the same number in fp64, and no coarser."""
    embed = CONVENTIONS[name].time_embedding
    time = torch.linspace(0, 1, 7).bfloat16()
    exact = embed(time.double(), 16)
    assert exact.dtype == torch.float32
    assert torch.equal(embed(time, 16), exact)
    assert not torch.equal(exact, exact.bfloat16().float())


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_action_encoder_in_bf16_is_close_to_fp32(name):
    """Weights and actions in bf16 round the tokens, not the angles of the time (up to 1500 rad) behind them."""
    torch.manual_seed(0)
    encoder = ActionEncoder(3, 32, CONVENTIONS[name])
    actions, time = torch.randn(4, 5, 3), torch.tensor([0.11, 0.37, 0.68, 0.93])
    expected = encoder(actions, time)
    tokens = encoder.bfloat16()(actions.bfloat16(), time)
    assert tokens.dtype == torch.bfloat16
    torch.testing.assert_close(tokens.float(), expected, atol=0.02, rtol=0)


def test_a_flow_knows_two_directions_only_by_its_data_time():
    forward, backward = Flow(data_time=1), Flow(data_time=0)
    actions, noise, t = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.tensor([0.25, 0.6])
    a, va = forward.interpolate(actions, noise, t)
    b, vb = backward.interpolate(actions, noise, 1 - t)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(va, -vb)
