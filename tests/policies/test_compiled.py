"""The whole action chunk as one graph."""

import pytest
import torch

from fathom.data.batch import Observation
from fathom.policies.qdepth_vla import QDepthVLA

from .conftest import INSTRUCTIONS


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"conventions": "openpi"}, {"softcap": 50.0}, {"depth": None}])
def test_one_compilation_without_a_graph_break_serves_every_prompt(changes, make_policy, monkeypatch):
    """``fullgraph`` refuses breaks; from the second prompt on a recompilation is an error."""
    torch._dynamo.reset()
    policy = make_policy(**changes).eval()
    noise = torch.randn(1, 4, 3)
    observations = [
        Observation({"main": torch.randint(0, 256, (1, 3, 40, 40)).byte()}, torch.rand(1, 5), [instruction])
        for instruction in INSTRUCTIONS
    ]
    expected = [policy.sample_actions(observation, noise) for observation in observations]
    graphs = []
    monkeypatch.setattr(torch, "compile", counting(torch.compile, graphs))
    policy.speed_up()
    monkeypatch.setattr(QDepthVLA, "chunk", None)  # whoever went round the compiled one would notice
    for observation, actions in zip(observations, expected, strict=True):
        torch.testing.assert_close(policy.sample_actions(observation, noise), actions, atol=1e-5, rtol=0)
    assert len(graphs) == 1


def counting(compile, graphs):
    """``torch.compile`` with a backend that counts the graphs it is given, and compiles them as usual."""
    from torch._inductor.compile_fx import compile_fx

    def backend(graph, inputs):
        graphs.append(graph)
        return compile_fx(graph, inputs)

    def compiled(function, *, fullgraph, dynamic, mode):
        assert fullgraph
        return compile(function, fullgraph=True, dynamic=dynamic, backend=backend)

    return compiled
