"""Action-guided visual pruning."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import fathom.mixture.passing
from fathom.data.draws import Draws
from fathom.mixture import Pass
from fathom.policies.deepvision_vla import PruningConfig
from fathom.policies.deepvision_vla.pruning import Pruner

from .conftest import EXPERT, observation_of, tiny_config, with_

GUIDES = {
    "action": PruningConfig(first_layer=0, keep=20),
    "instruction": PruningConfig(guide="instruction", first_layer=1, last_layer=1, keep=20),
    "cls": PruningConfig(guide="cls", first_layer=0, keep=20),
}


@pytest.fixture
def watched(monkeypatch):
    """What was kept, and how many queries each recomputed attention had."""
    seen = {"kept": [], "queries": []}
    kept, weights = Pruner.kept, fathom.mixture.passing.attention_weights
    monkeypatch.setattr(Pruner, "kept", lambda pruner: seen["kept"].append(kept(pruner)) or seen["kept"][-1])

    def counted(query, *args, **settings):
        seen["queries"].append(query.shape[2])
        return weights(query, *args, **settings)

    monkeypatch.setattr(fathom.mixture.passing, "attention_weights", counted)
    return seen


@pytest.mark.parametrize("guide", GUIDES)
def test_only_the_guiding_rows_are_computed_anew(guide, make_policy, make_batch, watched):
    policy = make_policy(expert=with_(pruning=GUIDES[guide]), cameras=("main", "wrist")).eval()
    policy.sample_actions(observation_of(make_batch(cameras=policy.cameras)))
    rows = {"action": [4, 4], "instruction": [10], "cls": [1, 1]}
    assert watched["queries"] == rows[guide]


@pytest.mark.parametrize("guide", GUIDES)
def test_tokens_are_gathered_and_those_without_a_place_always_stay(guide, make_policy, make_batch, watched):
    """The layers that meet see fewer tokens, of each camera as many."""
    policy = make_policy(expert=with_(pruning=GUIDES[guide]), cameras=("main", "wrist")).eval()
    lengths = []
    finish = policy.mixture.streams["expert"].own.layers[1].finish
    policy.mixture.streams["expert"].own.layers[1].finish = lambda hidden, a: (
        lengths.append(hidden.shape[1]) or finish(hidden, a)
    )
    policy.sample_actions(observation_of(make_batch(cameras=policy.cameras)))
    assert lengths == [2 * (3 + 20)]
    (kept,) = watched["kept"]
    assert set(kept) == {"expert_main", "expert_wrist"}
    for index in kept.values():
        assert index.shape == (3, 23)
        assert torch.equal(index[:, :3], torch.arange(3).expand(3, -1))
        assert (index.diff(dim=1) > 0).all()
        assert index.max() < 3 + 64


def test_the_choice_is_the_same_in_training_and_in_acting(make_policy, make_batch, watched):
    policy, batch = make_policy(), make_batch()
    policy.loss(batch, Draws(0))
    policy.eval()
    policy.sample_actions(observation_of(batch))
    trained, acted = watched["kept"]
    assert torch.equal(trained["expert_main"], acted["expert_main"])


def test_no_gradient_flows_through_the_choice(make_policy, make_batch):
    """Scores are no part of the graph; what they chose is."""
    policy = make_policy()
    scores, made = Pruner.scores, []
    Pruner.scores = lambda pruner: made.append(scores(pruner)) or made[-1]
    try:
        policy.loss(make_batch()).action.backward()
    finally:
        Pruner.scores = scores
    assert not made[0].requires_grad
    assert policy.mixture.streams["expert"].own.embeddings.patch_embeddings.weight.grad.abs().max() > 0


def test_keeping_every_token_is_not_pruning(make_policy, make_batch):
    policy = make_policy(expert=with_(pruning=replace(EXPERT.pruning, keep=1.0))).eval()
    whole = make_policy(expert=with_(pruning=None)).eval()
    whole.load_state_dict(policy.state_dict())
    inputs = policy.prepare(observation_of(make_batch()))
    torch.testing.assert_close(policy.chunk(inputs), whole.chunk(inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("row, column", [(0, 0), (1, 2), (3, 3)])
def test_what_is_attended_to_is_what_stays(row, column, make_policy):
    """An attention with one peak, layer after layer: the patches around it are kept, of that camera alone."""
    config = tiny_config(cameras=("main", "wrist"), expert=with_(pruning=replace(EXPERT.pruning, keep=4)))
    pruner = Pruner(config, config.expert, config.expert.pruning, 3, torch.ones(1, 10, dtype=torch.bool))
    layout, peak = pruner.layout, row * 4 + column

    class Given:
        def attention(self, block, tokens=slice(None)):
            weights = torch.zeros(1, 4, 4, 60)  # keys: 48 of the prompt, then others
            weights[..., layout.image(0).start + peak] = 0.9
            weights[..., layout.image(1).start + 15 - peak] = 0.1
            weights[..., 50] = 5.0  # no image token
            return weights

        def keys(self, block):
            return slice(0, 48)

    for layer in range(4):
        pruner.watch(Given(), {"vlm": layer})
    assert len(pruner.maps) == 2  # layers 0 and 1 come before those that meet
    own = {2 * row, 2 * row + 1}, {2 * column, 2 * column + 1}
    patches = [divmod(index.item() - 3, 8) for index in pruner.kept()["expert_main"][0, 3:]]
    assert {r for r, _ in patches} == own[0] and {c for _, c in patches} == own[1]
    mirrored = [divmod(index.item() - 3, 8) for index in pruner.kept()["expert_wrist"][0, 3:]]
    assert {r for r, _ in mirrored} == {7 - r for r in own[0]}


@pytest.mark.parametrize("merge", [1, 2])
def test_where_one_region_decides_the_action_it_is_kept(merge, make_policy, make_batch, monkeypatch):
    """A bright square somewhere in a dim, speckled picture, and actions that look where it is bright: a quarter of the
    expert's tokens covers the square, also where the language model's tokens are coarser than the expert's."""
    vision = replace(tiny_config().vision, layers=2, merge=merge, position_grid=8, deepstack=())
    policy = make_policy(vision=vision, expert=with_(pruning=PruningConfig(first_layer=1, keep=0.25))).eval()
    batch, corners = scene(make_batch, 64, torch.Generator().manual_seed(1))
    bright = batch.images["main"].float().mean(1, keepdim=True)
    looked = F.adaptive_avg_pool2d(bright, policy.layout.grid).flatten(1)
    attention = Pass.attention

    def looking(passing, name, rows=slice(None)):
        weights = torch.zeros_like(attention(passing, name, rows))
        weights[..., passing.keys("prompt")][..., policy.layout.image(0)] = looked[:, None, None]
        return weights

    monkeypatch.setattr(Pass, "attention", looking)
    kept, seen = Pruner.kept, []
    monkeypatch.setattr(Pruner, "kept", lambda pruner: seen.append(kept(pruner)) or seen[-1])
    policy.sample_actions(observation_of(batch))
    patches = torch.zeros(64, 3 + 64).scatter(1, seen[0]["expert_main"], 1.0)[:, 3:].unflatten(1, (8, 8))
    covered = [patches[i, r : r + 2, c : c + 2].mean() for i, (r, c) in enumerate((corners // 4).tolist())]
    assert torch.stack(covered).min() == 1


def scene(make_batch, count, generator):
    """Pictures of 32 x 32 with a square of 8 x 8, and the place of its corner as the action."""
    batch = make_batch(batch=count)
    corners = torch.randint(0, 7, (count, 2), generator=generator) * 4
    pictures = torch.randint(0, 60, (count, 3, 32, 32), generator=generator).byte()
    for picture, (row, column) in zip(pictures, corners.tolist(), strict=True):
        picture[:, row : row + 8, column : column + 8] = 250
    place = (corners / 24 - 0.5).float()
    actions = torch.cat([place, torch.zeros(count, 1)], 1)[:, None].expand(-1, 4, -1) * 0.8 + 0.1
    return type(batch)(**{**vars(batch), "images": {"main": pictures}, "actions": actions}), corners


@pytest.mark.slow
def test_the_pruned_chunk_is_one_graph(make_policy, make_batch):
    """``fullgraph`` refuses breaks, so no shape depends on what is kept."""
    torch._dynamo.reset()
    for pruning in GUIDES.values():
        policy = make_policy(expert=with_(pruning=pruning)).eval()
        inputs = policy.prepare(observation_of(make_batch()))
        with torch.no_grad():
            expected = policy.chunk(inputs)
            compiled = torch.compile(policy.chunk, fullgraph=True, dynamic=False, backend="eager")
            torch.testing.assert_close(compiled(inputs), expected, atol=1e-5, rtol=0)
