"""The mixture against transformers' own models, its cache, and who can influence whom."""

import pytest
import torch
from transformers import GemmaModel, PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionModel

from fathom.mixture import Block, GemmaStream, Mixture, Visibility
from fathom.policies.qdepth_vla.config import VISIBILITY

from .conftest import gemma_config

# The tests run over every named table: a block that a new table brings needs its stream and its length here.
CARRIES = {"vlm": "image text", "depth": "depth", "action": "proprio action"}
LENGTHS = {"image": 4, "text": 3, "depth": 4, "proprio": 1, "action": 3}
WIDTH = {"vlm": 32, "depth": 16, "action": 16}


def carries_of(table: Visibility) -> dict[str, str]:
    kept = {name: " ".join(b for b in blocks.split() if b in table.blocks) for name, blocks in CARRIES.items()}
    return {name: blocks for name, blocks in kept.items() if blocks}


@pytest.fixture
def make_mixture(make_stream):
    def make(table: Visibility, layers: int = 3, **changes) -> Mixture:
        torch.manual_seed(0)
        carries = carries_of(table)
        return Mixture({name: make_stream(WIDTH[name], layers) for name in carries}, carries, table, **changes)

    return make


@pytest.fixture
def make_blocks(make_block):
    def make(table: Visibility, **valid) -> dict[str, Block]:
        widths = {block: WIDTH[name] for name, blocks in CARRIES.items() for block in blocks.split()}
        return {name: make_block(name, LENGTHS[name], widths[name], valid=valid.get(name)) for name in table.blocks}

    return make


def test_one_gemma_stream_is_gemma():
    torch.manual_seed(0)
    theirs = GemmaModel(gemma_config()).eval()
    ours = GemmaStream(gemma_config(), embed_tokens=True)
    ours.load_state_dict(theirs.state_dict())  # strict: the names are Hugging Face's own
    mixture = Mixture({"text": ours}, {"text": "text"}, Visibility({"text": "text"}, causal={"text": "text"}))
    ids = torch.randint(1, 50, (2, 7))
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[1, 5:] = False
    hidden = ours.embed_tokens(ids) * 32**0.5
    out, _ = mixture([Block("text", hidden, torch.arange(7).expand(2, -1), valid)])
    expected = theirs(input_ids=ids, attention_mask=valid.long()).last_hidden_state
    torch.testing.assert_close(out["text"][valid], expected[valid], atol=1e-5, rtol=0)


def test_siglip_and_a_gemma_stream_are_paligemma():
    torch.manual_seed(0)
    vision = {
        "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14, "vision_use_head": False, "model_type": "siglip_vision_model",
    }  # fmt: skip
    text = gemma_config(vocab_size=60)
    config = PaliGemmaConfig(vision_config=vision, text_config=text, image_token_index=59, projection_dim=32)
    theirs = PaliGemmaForConditionalGeneration(config).eval()
    model = theirs.model

    tower = SiglipVisionModel(model.vision_tower.config).eval()
    tower.load_state_dict(model.vision_tower.state_dict())
    stream = GemmaStream(model.language_model.config, embed_tokens=True)
    stream.load_state_dict(model.language_model.state_dict())
    mixture = Mixture({"vlm": stream}, {"vlm": "image text"}, VISIBILITY["pi0"].without("proprio", "action"))

    pixels, ids = torch.rand(2, 3, 28, 28) * 2 - 1, torch.randint(1, 58, (2, 5))
    image = model.multi_modal_projector(tower(pixels).last_hidden_state)
    words = stream.embed_tokens(ids) * 32**0.5
    out, _ = mixture([Block("image", image, positions(2, 1, 4)), Block("text", words, positions(2, 5, 5))])
    whole = torch.cat([torch.full((2, 4), 59), ids], 1)
    expected = model(
        input_ids=whole,
        pixel_values=pixels,
        attention_mask=torch.ones_like(whole),
        token_type_ids=torch.zeros_like(whole),
    ).last_hidden_state
    torch.testing.assert_close(torch.cat([out["image"], out["text"]], 1), expected, atol=1e-5, rtol=0)


def positions(batch: int, start: int, length: int) -> torch.Tensor:
    return torch.arange(start, start + length).expand(batch, -1)


@pytest.mark.parametrize("name", VISIBILITY)
def test_cached_prefix_equals_the_whole(name, make_mixture, make_blocks):
    mixture, blocks = make_mixture(VISIBILITY[name]), make_blocks(VISIBILITY[name])
    whole, _ = mixture(list(blocks.values()))
    prefix = [block for block in blocks.values() if block.name != "action"]
    early, cache = mixture(prefix, wanted=[])
    assert early == {}
    late, _ = mixture([blocks["action"]], cache)
    torch.testing.assert_close(late["action"], whole["action"], atol=1e-5, rtol=0)


def test_the_cache_can_grow_block_by_block(make_mixture, make_blocks):
    table = VISIBILITY["hybrid"]
    mixture, blocks = make_mixture(table), make_blocks(table)
    whole, _ = mixture(list(blocks.values()))
    cache = None
    for names in (("image", "text"), ("depth",), ("proprio",), ("action",)):
        out, cache = mixture([blocks[name] for name in names], cache)
        for name in names:
            torch.testing.assert_close(out[name], whole[name], atol=1e-5, rtol=0)


def test_a_repeated_cache_serves_several_suffixes(make_mixture, make_blocks, make_block):
    table = VISIBILITY["hybrid"]
    valid = torch.tensor([[True, True, False], [True, True, True]])
    mixture, blocks = make_mixture(table), make_blocks(table, text=valid)
    _, cache = mixture([b for b in blocks.values() if b.name != "action"], wanted=[])
    many = make_block("action", 3, WIDTH["action"], batch=6)
    together, _ = mixture([many], cache.repeat(3))
    for draw in range(3):
        one = Block("action", many.hidden[draw::3], many.positions[draw::3])
        torch.testing.assert_close(together["action"][draw::3], mixture([one], cache)[0]["action"], atol=1e-5, rtol=0)


def test_a_block_that_reads_later_blocks_cannot_be_cached(make_mixture, make_blocks):
    table = VISIBILITY["hybrid"]
    mixture, blocks = make_mixture(table), make_blocks(table)
    _, cache = mixture([blocks["image"]])
    with pytest.raises(ValueError, match="'image' reads"):
        mixture([blocks["text"]], cache)


@pytest.mark.parametrize("name", VISIBILITY)
@pytest.mark.parametrize("layers", [1, 3])
def test_influence_is_exactly_the_table_or_its_closure(name, layers, make_mixture, make_blocks):
    """By gradients and by finite perturbations, for every pair of blocks, in one layer and over the full stack."""
    table = VISIBILITY[name]
    mixture = make_mixture(table, layers)
    blocks = make_blocks(table)
    allowed = table if layers == 1 else table.closure()
    before, _ = mixture(list(blocks.values()))
    for source in table.blocks:
        moved = {**blocks, source: with_hidden(blocks[source], blocks[source].hidden + 0.5)}
        after, _ = mixture(list(moved.values()))
        leaf = blocks[source].hidden.clone().requires_grad_()
        traced, _ = mixture(list({**blocks, source: with_hidden(blocks[source], leaf)}.values()))
        for target in table.blocks:
            reaches = allowed.sees(target, source) or target == source  # the residual path
            changed = (after[target] - before[target]).abs().max().item()
            (gradient,) = torch.autograd.grad(traced[target].sum(), leaf, retain_graph=True, allow_unused=True)
            slope = 0.0 if gradient is None else gradient.abs().max().item()
            assert (changed > 1e-6) == reaches, f"{source} -> {target}: output changed by {changed}"
            assert (slope > 1e-9) == reaches, f"{source} -> {target}: gradient {slope}"


def with_hidden(block: Block, hidden: torch.Tensor) -> Block:
    return Block(block.name, hidden, block.positions, block.valid)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_a_longer_pad_changes_nothing(backend, make_mixture, make_blocks):
    table = VISIBILITY["hybrid"]
    mixture, blocks = make_mixture(table, backend=backend), make_blocks(table)
    before, _ = mixture(list(blocks.values()))
    text = blocks["text"]
    padded = Block(
        "text",
        torch.cat([text.hidden, 100 * torch.randn(2, 4, 32)], 1),
        positions(2, 1, 7),
        torch.arange(7).expand(2, -1) < 3,
    )
    after, _ = mixture(list({**blocks, "text": padded}.values()))
    for name, expected in before.items():
        torch.testing.assert_close(after[name][:, : LENGTHS[name]], expected, atol=1e-5, rtol=0)


def test_streams_that_run_alone_first_meet_later(make_stream, make_block):
    """A plan: two layers of `a` alone, then `b` joins; over these steps only later layers of `a` read `b`."""
    torch.manual_seed(0)
    table = Visibility({"a": "a b", "b": "b"})
    streams = {"a": make_stream(32, 3), "b": make_stream(16, 1)}
    mixture = Mixture(streams, {"a": "a", "b": "b"}, table, plan=[{"a": 0}, {"a": 1}, {"a": 2, "b": 0}])
    a, b = make_block("a", 3, 32), make_block("b", 2, 16)
    together, _ = mixture([a, b])

    alone = Mixture({"a": streams["a"]}, {"a": "a"}, Visibility({"a": "a"}), plan=[{"a": 0}, {"a": 1}, {"a": 2}])
    assert not torch.allclose(together["a"], alone([a])[0]["a"], atol=1e-3)
    (only_b, _) = Mixture({"b": streams["b"]}, {"b": "b"}, Visibility({"b": "b"}))([b])
    torch.testing.assert_close(together["b"], only_b["b"], atol=1e-5, rtol=0)

    _, cache = mixture([b])  # nothing of b in the first two steps
    late, _ = mixture([a], cache)
    torch.testing.assert_close(late["a"], together["a"], atol=1e-5, rtol=0)


def test_streams_of_different_depth_need_a_plan(make_stream):
    streams = {"a": make_stream(layers=3), "b": make_stream(layers=2)}
    with pytest.raises(ValueError, match="plan"):
        Mixture(streams, {"a": "a", "b": "b"}, Visibility({"a": "a", "b": "b"}))


def test_every_block_needs_a_stream(make_stream):
    with pytest.raises(ValueError, match="carry"):
        Mixture({"a": make_stream()}, {"a": "a"}, Visibility({"a": "a", "b": "b"}))


def test_unwanted_streams_are_not_finished(make_mixture, make_blocks, monkeypatch):
    """The last layer of a stream that nobody wants stops at its keys and values."""
    table = VISIBILITY["hybrid"]
    mixture, blocks = make_mixture(table), make_blocks(table)
    called = []
    layers = mixture.streams["vlm"].layers
    for number, layer in enumerate(layers):
        finish = layer.finish
        monkeypatch.setattr(layer, "finish", lambda *a, n=number, f=finish: (called.append(n), f(*a))[1])
    whole, _ = mixture(list(blocks.values()))
    part, _ = mixture(list(blocks.values()), wanted={"action"})
    assert called == [0, 1, 2, 0, 1]
    torch.testing.assert_close(part["action"], whole["action"], atol=1e-6, rtol=0)
