"""What only a GPU can show; run with ``pytest -m gpu`` where there is one."""

import pytest
import torch

from fathom.data.draws import Draws

from .test_qdepth_vla import observation_of

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("changes", [{}, {"softcap": 50.0}, {"depth": None}])
def test_a_gpu_gives_the_actions_of_a_cpu(changes, make_policy, make_batch):
    policy, observation, noise = make_policy(**changes).eval(), observation_of(make_batch()), torch.randn(3, 4, 3)
    expected = policy.sample_actions(observation, noise)
    actions = policy.cuda().sample_actions(observation, noise)
    torch.testing.assert_close(actions.cpu(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"softcap": 50.0}])
def test_the_captured_chunk_gives_the_same_actions(changes, make_policy, make_batch):
    policy, observation, noise = (
        make_policy(**changes).eval().cuda(),
        observation_of(make_batch()),
        torch.randn(3, 4, 3),
    )
    expected = policy.sample_actions(observation, noise)
    policy.speed_up(batch=3)
    for _ in range(3):
        torch.testing.assert_close(policy.sample_actions(observation, noise), expected, atol=1e-3, rtol=0)


def test_a_training_step_runs(make_policy, make_batch):
    policy = make_policy().cuda()
    with torch.autocast("cuda", torch.bfloat16):
        loss = policy.loss(make_batch(), Draws(0)).total(0.1)
    loss.backward()
    assert loss.isfinite() and policy.action_decoder.weight.grad.isfinite().all()
