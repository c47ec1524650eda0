"""The action chunk compiled, without a graph break."""

import pytest
import torch

from fathom.data.batch import Observation

from .conftest import INSTRUCTIONS


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"conventions": "openpi"}, {"softcap": 50.0}, {"depth": None}])
def test_one_compilation_without_a_graph_break_serves_every_prompt(changes, make_policy, monkeypatch):
    """``fullgraph`` refuses breaks; the graphs are counted."""
    torch._dynamo.reset()
    policy = make_policy(**changes).eval()
    before = torch.backends.mkldnn.matmul.fp32_precision
    noise = torch.randn(1, 4, 3)
    observations = [
        Observation({"main": torch.randint(0, 256, (1, 3, 40, 40)).byte()}, torch.rand(1, 5), [instruction])
        for instruction in INSTRUCTIONS
    ]
    expected = [policy.sample_actions(observation, noise) for observation in observations]
    graphs = []
    monkeypatch.setattr(torch, "compile", counting(torch.compile, graphs))
    policy.speed_up()
    assert len(graphs) == 2  # prefix and flow step
    for observation, actions in zip(observations, expected, strict=True):
        torch.testing.assert_close(policy.sample_actions(observation, noise), actions, atol=1e-5, rtol=0)
    assert len(graphs) == 2
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.slow
def test_the_whole_chunk_is_one_graph_too(make_policy):
    """As on a GPU, where it is captured as one CUDA graph; there is none here, so its graph is run as it is."""
    torch._dynamo.reset()
    policy = make_policy().eval()
    observation = Observation(
        {"main": torch.randint(0, 256, (2, 3, 40, 40)).byte()}, torch.rand(2, 5), INSTRUCTIONS[:2]
    )
    noise = torch.randn(2, 4, 3)
    expected = policy.sample_actions(observation, noise)
    policy.chunk = torch.compile(policy.chunk, fullgraph=True, dynamic=False, backend="eager")
    torch.testing.assert_close(policy.sample_actions(observation, noise), expected, atol=1e-5, rtol=0)


def counting(compile, graphs):
    """``torch.compile`` with a backend that counts the graphs it is given, and compiles them as usual."""
    from torch._inductor.compile_fx import compile_fx

    def backend(graph, inputs):
        graphs.append(graph)
        return compile_fx(graph, inputs)

    def compiled(function, *, fullgraph, dynamic):
        assert fullgraph
        return compile(function, fullgraph=True, dynamic=dynamic, backend=backend)

    return compiled
