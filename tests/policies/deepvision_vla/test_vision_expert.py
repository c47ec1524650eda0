"""The vision expert beside the language model: the baseline without it, DINOv3 without the rest, and who reads whom."""

from dataclasses import replace

import pytest
import torch
from transformers import DINOv3ViTModel

from fathom.data.draws import Draws
from fathom.mixture import Block
from fathom.policies.deepvision_vla import DeepVisionVLA
from fathom.policies.deepvision_vla.streams import joint_steps, plan, visibility

from .conftest import DEPTH, EXPERT, observation_of, tiny_config, with_


@pytest.mark.parametrize(
    "expert", [{}, {"reads": "none", "kv_heads": 4}, {"positions": "native", "pruning": None}], ids=str
)
@pytest.mark.parametrize("depth", [None, DEPTH], ids=["paper", "both at once"])
def test_an_expert_that_is_never_read_leaves_the_baseline(depth, expert, make_policy, make_batch, outputs_of):
    """With the bias at minus infinity the language model does not know of it."""
    policy = make_policy(expert=with_(bias=float("-inf"), **expert), depth=depth).eval()
    torch.manual_seed(4)
    for name, parameter in policy.named_parameters():
        if name.startswith("mixture.streams."):  # as drawn, most states are nearly nothing
            torch.nn.init.normal_(parameter, std=0.25)
    baseline = make_policy(expert=None, depth=depth).eval()
    state = policy.state_dict()
    baseline.load_state_dict({name: state[name] for name in baseline.state_dict()})
    observation = observation_of(make_batch())
    without = outputs_of(baseline, observation)
    given = outputs_of(policy, observation)
    assert set(without) == {"prompt", "action"} | ({"depth"} if depth else set())
    for block, expected in without.items():
        torch.testing.assert_close(given[block], expected, atol=1e-6, rtol=1e-6)
    inputs = policy.prepare(observation)
    torch.testing.assert_close(policy.chunk(inputs), baseline.chunk(inputs), atol=1e-6, rtol=1e-6)


def test_an_expert_that_is_read_changes_the_actions(make_policy, make_batch):
    """Else the test above would say nothing. At -10 it is hardly read."""
    batch = observation_of(make_batch())
    chunks = {}
    for bias in (float("-inf"), -10.0, 0.0):
        policy = make_policy(expert=with_(bias=bias)).eval()
        chunks[bias] = policy.chunk(policy.prepare(batch))
    near, far = ((chunks[bias] - chunks[float("-inf")]).abs().max() for bias in (-10.0, 0.0))
    assert 0 < near < far / 20


@pytest.mark.parametrize("which", ["last", "uniform"])
def test_an_expert_that_reads_nothing_else_is_dinov3(which, make_policy, make_batch, outputs_of):
    """Own positions before an alignment that changes nothing, every token kept: DINOv3's own output.

    Its 3 heads of 8 lie in the first numbers of 4 heads of 16; queries are larger by the root of 2, by which the shared
    logits are divided more.
    """
    expert = with_(reads="none", positions="native", kv_heads=4, pruning=None, which=which)
    policy = make_policy(expert=expert, cameras=("main", "wrist")).eval()
    stream = policy.mixture.streams["expert"]
    torch.manual_seed(1)
    theirs = DINOv3ViTModel(expert.dinov3()).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    stream.own.load_state_dict({n.replace("model.layer.", "layers."): t for n, t in theirs.state_dict().items()})
    embedding = torch.zeros(64, 24)
    for number in range(24):
        embedding[number // 8 * 16 + number % 8, number] = 1
    for alignment in stream.alignments.values():
        alignment.query.weight.data = embedding * 2**0.5
        alignment.key.weight.data, alignment.value.weight.data = embedding.clone(), embedding.clone()
        alignment.output.weight.data = embedding.T.clone()
    observation = observation_of(make_batch(cameras=policy.cameras))
    out = outputs_of(policy, observation)
    pixels = policy.prepare(observation).expert_pixels
    for camera, name in enumerate(policy.cameras):
        with torch.no_grad():
            expected = theirs(pixels[:, camera]).last_hidden_state
        torch.testing.assert_close(out[f"expert_{name}"], expected, atol=1e-5, rtol=1e-5)


VARIANTS = {
    "all": {},
    "prompt": {"expert": with_(reads="prompt")},
    "none": {"expert": with_(reads="none")},
    "two cameras": {"cameras": ("main", "wrist"), "proprio": True},
    "both at once": {"depth": DEPTH, "proprio": True},
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("deep", [False, True])
def test_influence_is_exactly_the_table_or_its_closure(name, deep, make_policy):
    """By finite perturbations and by gradients, for every pair of blocks: in one joint layer the table, over the full
    stack its closure; the expert's choice of tokens is held fixed."""
    changes = dict(VARIANTS[name])
    if not deep:
        expert = replace(changes.get("expert", EXPERT), layers=1, coupled=1, pruning=None)
        vision = replace(tiny_config().vision, deepstack=())
        changes |= {"layers": 1, "expert": expert, "vision": vision}
    policy = make_policy(**changes).eval()
    torch.manual_seed(2)
    for parameter in policy.mixture.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    table = visibility(policy.config)
    allowed = table.closure() if deep else table
    blocks = random_blocks(policy)
    before = run(policy, blocks)
    for source in table.blocks:
        moved = [block if block.name != source else shifted(block) for block in blocks]
        after = run(policy, moved)
        leaf = next(block for block in blocks if block.name == source).hidden.clone().requires_grad_()
        traced = run(policy, [b if b.name != source else Block(b.name, leaf, b.positions, b.valid) for b in blocks])
        for target in table.blocks:
            reaches = allowed.sees(target, source) or target == source  # the residual path
            changed = (after[target] - before[target]).abs().max().item()
            (slope,) = torch.autograd.grad(traced[target].sum(), leaf, retain_graph=True, allow_unused=True)
            steep = 0.0 if slope is None else slope.abs().max().item()
            assert (changed > 1e-6) == reaches, f"{source} -> {target}: output changed by {changed}"
            assert (steep > 1e-9) == reaches, f"{source} -> {target}: gradient {steep}"


def random_blocks(policy: DeepVisionVLA) -> list[Block]:
    """Every block with contents of its own: the actions' zeros would hide what they change."""
    torch.manual_seed(3)
    carried, length = policy.mixture.stream_of, {"prompt": 7, "proprio": 1, "action": 4, "depth": 6}
    width = {"vlm": 32, "depth": 16, "expert": 24}
    blocks = []
    for name in policy.mixture.visibility.blocks:
        tokens, axes = length.get(name, 8), 5 if carried[name] == "expert" else 3
        places = torch.randint(0, 9, (2, tokens, axes)).float()
        blocks.append(Block(name, torch.randn(2, tokens, width[carried[name]]), places))
    return blocks


def shifted(block: Block) -> Block:
    return Block(block.name, block.hidden + torch.randn_like(block.hidden), block.positions, block.valid)


def run(policy: DeepVisionVLA, blocks: list[Block]) -> dict[str, torch.Tensor]:
    """The whole stack, in which the expert keeps its first, third, … token from the entry on."""
    passing, pruned = policy.mixture.begin(blocks), policy.config.expert.pruning
    for _ in policy.mixture.plan:
        if pruned and passing.place == policy.entry:
            experts = [block.name for block in blocks if block.name.startswith("expert")]
            passing.select({name: torch.arange(0, 8, 2).expand(2, -1) for name in experts})
        passing.advance()
    return passing.outputs()


def test_the_prompt_is_no_longer_causal_where_the_expert_reads_it(make_policy, make_batch, outputs_of):
    """Prompt → expert → earlier prompt tokens; with ``reads=none`` the last word changes no token before it."""
    batch = make_batch(batch=1)
    one, other = (
        type(observation_of(batch))(batch.images, batch.state, [instruction])
        for instruction in ("open the drawer", "open the faucet")
    )
    for reads, causal in (("prompt", False), ("none", True)):
        policy = make_policy(expert=with_(reads=reads, pruning=None, bias=0.0)).eval()
        place = policy.layout.instruction.start + 3  # <bos> open the …
        before, after = (outputs_of(policy, o)["prompt"][:, :place] for o in (one, other))
        assert torch.allclose(before, after, atol=1e-6) == causal


class TestPlan:
    def test_the_papers(self):
        config = tiny_config(layers=36, expert=replace(EXPERT, layers=32, coupled=16))
        steps = plan(config)
        assert steps[:20] == [{"vlm": layer} for layer in range(20)]
        assert steps[20:36] == [{"expert": layer} for layer in range(16)]
        assert steps[36:] == [{"vlm": 20 + layer, "expert": 16 + layer} for layer in range(16)]
        assert joint_steps(config) == list(range(36, 52))

    def test_first_layers_join_at_once_and_the_rest_is_not_built(self, make_policy):
        config = tiny_config(expert=with_(which="first", layers=3))
        assert plan(config)[2:] == [{"vlm": 2, "expert": 0}, {"vlm": 3, "expert": 1}]
        assert len(make_policy(expert=with_(which="first")).mixture.streams["expert"].own.layers) == 2

    def test_uniform_layers_have_others_between_them(self):
        config = tiny_config(expert=with_(which="uniform", layers=6))
        alone = [{"expert": 0}, {"expert": 1}]
        between = [{"expert": 3}, {"expert": 4}]
        assert plan(config)[2:] == [*alone, {"vlm": 2, "expert": 2}, *between, {"vlm": 3, "expert": 5}]

    def test_a_depth_expert_runs_beside_the_language_model_throughout(self):
        steps = plan(tiny_config(depth=DEPTH))
        assert [step["depth"] for step in steps if "vlm" in step] == [0, 1, 2, 3]
        assert all(("depth" in step) == ("vlm" in step) for step in steps)


def test_dinov3s_random_scale_is_drawn_in_training_alone(make_policy, make_batch):
    """By the generator, between a half and two; in evaluation there is none."""
    policy, batch = make_policy(), make_batch()
    seen = []
    run, policy._run = policy._run, lambda inputs, **k: seen.append(inputs.expert_scale) or run(inputs, **k)
    losses = [policy.loss(batch, Draws(seed)).action for seed in (0, 0, 1)]
    assert seen[0] == seen[1] != seen[2]
    assert losses[0] == losses[1] != losses[2]
    assert all(0.5 <= scale <= 2 for scale in seen)
    policy.eval()
    assert policy.loss(batch).action == policy.loss(batch).action
    policy.sample_actions(observation_of(batch))
    assert seen[3:] == [None, None, None]


def test_expert_positions_lie_between_the_image_tokens(make_policy):
    """The mean of the patches in an image token's place is that token's position; the corners are DINOv3's own."""
    policy = make_policy(cameras=("main", "wrist"))
    layout, grid = policy.layout, EXPERT.grid
    for camera in range(2):
        places = layout.expert_positions(camera, 3, grid, 1.0, torch.device("cpu"))
        image = layout.image_positions(camera, torch.device("cpu"))
        cells = places[3:, :3].unflatten(0, (4, 2, 4, 2)).mean((1, 3)).flatten(0, 1)
        torch.testing.assert_close(cells, image.float())
        assert torch.equal(places[:3], torch.tensor([*image[0].tolist(), 0, 0]).expand(3, -1).float())
        torch.testing.assert_close(places[3, 3:], torch.tensor([1 / grid - 1, 1 / grid - 1]))
