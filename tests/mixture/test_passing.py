"""A pass that is stopped between its steps, and the bias on some pairs of blocks."""

import pytest
import torch

from fathom.mixture import Block, LogitBias, Mixture, Visibility, attend, attention_weights

TABLE = Visibility({"a": "a b", "b": "b"}, causal={"a": "a"})


@pytest.fixture
def mixture(make_stream):
    torch.manual_seed(0)
    return Mixture({"a": make_stream(32), "b": make_stream(16)}, {"a": "a", "b": "b"}, TABLE)


@pytest.fixture
def blocks(make_block):
    torch.manual_seed(1)
    return [make_block("a", 4, 32), make_block("b", 5, 16, valid=torch.arange(5).expand(2, -1) < 4)]


def test_step_by_step_is_the_same_as_at_once(mixture, blocks):
    whole, _ = mixture(blocks)
    passing = mixture.begin(blocks)
    for _ in mixture.plan:
        passing.advance()
    for name, expected in whole.items():
        assert torch.equal(passing.outputs()[name], expected)


def test_the_attention_of_some_tokens_is_that_of_the_step(mixture, blocks, monkeypatch):
    """Against what `attend` was really given in that step."""
    seen = {}

    def spy(query, key, value, mask, **settings):
        seen.update(query=query, key=key, mask=mask)
        return attend(query, key, value, mask, **settings)

    monkeypatch.setattr("fathom.mixture.passing.attend", spy)
    passing = mixture.begin(blocks)
    passing.advance()
    passing.advance()
    expected = attention_weights(seen["query"], seen["key"], seen["mask"])
    torch.testing.assert_close(passing.attention("a", slice(1, 3)), expected[:, :, 1:3], atol=1e-6, rtol=0)
    torch.testing.assert_close(passing.attention("b"), expected[:, :, 4:], atol=1e-6, rtol=0)
    assert passing.keys("b") == slice(4, 9)
    assert passing.attention("a")[..., passing.keys("b")][..., 4].max() == 0  # padding


def test_tokens_that_are_dropped_are_as_if_they_were_padding(mixture, blocks):
    """Gathered after the first step, or never valid from there on: the same for all that stays."""
    kept = torch.tensor([[0, 2], [1, 3]])
    gathered, masked = mixture.begin(blocks), mixture.begin(blocks)
    gathered.advance()
    masked.advance()
    gathered.select({"b": kept})
    masked.hide({"b": torch.ones(2, 5, dtype=torch.bool).scatter(1, kept, False)})
    for _ in range(2):
        gathered.advance()
        masked.advance()
    assert gathered.outputs()["b"].shape[1] == 2
    assert torch.equal(gathered.kept("b"), kept) and gathered.kept("a") is None
    torch.testing.assert_close(gathered.outputs()["a"], masked.outputs()["a"], atol=1e-5, rtol=0)
    expected = torch.stack([masked.outputs()["b"][row, kept[row]] for row in range(2)])
    torch.testing.assert_close(gathered.outputs()["b"], expected, atol=1e-5, rtol=0)


def test_what_is_selected_twice_keeps_its_first_numbers(mixture, blocks):
    passing = mixture.begin(blocks)
    passing.select({"b": torch.tensor([[0, 2, 3], [1, 3, 4]])})
    passing.select({"b": torch.tensor([[1, 2], [0, 2]])})
    assert passing.kept("b").tolist() == [[2, 3], [1, 4]]


@pytest.mark.parametrize("backend", ["eager", "sdpa", "flex"])
def test_hidden_from_the_first_step_on_is_as_hidden_by_the_table(backend, make_stream, blocks):
    torch.manual_seed(0)
    streams = {"a": make_stream(32), "b": make_stream(16)}
    carries = {"a": "a", "b": "b"}
    blind = Mixture(streams, carries, Visibility({"a": "a", "b": ""}, causal={"a": "a"}), backend=backend)
    with torch.no_grad():  # flex has no backward on a CPU
        expected, _ = blind(blocks)
        passing = Mixture(streams, carries, TABLE, backend=backend).begin(blocks)
        passing.hide({"b": torch.ones(2, 5, dtype=torch.bool)})
        for _ in range(3):
            passing.advance()
    torch.testing.assert_close(passing.outputs()["a"], expected["a"], atol=1e-5, rtol=0)


def test_what_is_hidden_from_a_later_step_on_was_read_before(mixture, blocks):
    """Step by step: the mask of a step is that of its own tokens, also for who reads them out of the cache."""
    reader = Visibility({"a": "a b", "b": "b"})
    mixture.visibility = reader
    seen, kept_back = mixture.begin([blocks[1]]), mixture.begin([blocks[1]])
    everything = {"b": torch.ones(2, 5, dtype=torch.bool)}
    for passing in (seen, kept_back):
        passing.advance()
    kept_back.hide(everything)
    for passing in (seen, kept_back):
        passing.advance()
        passing.advance()
    masses = []
    for cache in (seen.cache, kept_back.cache):
        passing = mixture.begin([blocks[0]], cache)
        for _ in mixture.plan:
            passing.advance()
            masses.append(passing.attention("a")[..., passing.keys("b")].sum(-1).mean().item())
    read, unread = masses[:3], masses[3:]
    assert unread[0] == pytest.approx(read[0], abs=1e-6) and unread[0] > 0
    assert unread[1:] == [0, 0] and min(read) > 0


def test_a_watcher_takes_part_in_every_pass_while_it_watches(mixture, blocks):
    class Doubling:
        places = ()

        def before(self, passing):
            self.places += (("before", passing.place, passing.blocks),)
            passing.add("a", passing.hidden("a"))

        def after(self, passing):
            self.places += (("after", passing.place),)

    watcher, passing = Doubling(), mixture.begin(blocks)
    with mixture.watched(watcher):
        doubled, _ = mixture(blocks)
    assert watcher.places[:3] == (("before", 0, ("a", "b")), ("after", 1), ("before", 1, ("a", "b")))
    for _ in mixture.plan:
        passing.add("a", passing.hidden("a"))
        passing.advance()
    assert torch.equal(doubled["a"], passing.outputs()["a"])
    assert len(watcher.places) == 6  # and no more afterwards


def test_what_is_added_between_two_steps_goes_into_the_next(mixture, blocks):
    values = torch.randn_like(blocks[1].hidden)
    passing = mixture.begin(blocks)
    passing.add("b", values)  # before the first step it is as good as a part of the input
    for _ in mixture.plan:
        passing.advance()
    changed = [blocks[0], blocks[1].with_hidden(blocks[1].hidden + values)]
    (expected, _), (untouched, _) = mixture(changed), mixture(blocks)
    for block in ("a", "b"):  # "a" reads "b"
        torch.testing.assert_close(passing.outputs()[block], expected[block], atol=1e-6, rtol=0)
        assert (untouched[block] - expected[block]).abs().max() > 1e-4


def test_positions_are_encoded_again_only_for_other_tokens(mixture, blocks, monkeypatch):
    calls = []
    for name, stream in mixture.streams.items():
        monkeypatch.setattr(stream, "encode_positions", _counted(name, stream.encode_positions, calls))
    passing = mixture.begin(blocks)
    assert len(calls) == len(mixture.streams)
    passing.add("a", torch.randn(2, 4, 32))
    passing.hide({"a": torch.zeros(2, 4, dtype=torch.bool)})
    assert len(calls) == len(mixture.streams)
    passing.select({"a": torch.tensor([[0, 2], [1, 3]])})
    assert calls[len(mixture.streams) :] == [mixture.stream_of["a"]]


def _counted(name, encode, calls):
    def encode_positions(*arguments):
        calls.append(name)
        return encode(*arguments)

    return encode_positions


def test_no_step_has_no_attention(mixture, blocks):
    with pytest.raises(ValueError, match="no joint step"):
        mixture.begin(blocks).attention("a")


@pytest.mark.parametrize("backend", ["eager", "sdpa", "flex"])
def test_a_bias_is_added_to_the_logits(backend):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, 3, 16) for heads in (4, 2, 2))
    mask = Visibility({"a": "a"}, causal={"a": "a"}).mask(
        ["a"], [Block("a", torch.zeros(1, 3, 1), torch.zeros(1, 3)).span]
    )
    bias = torch.randn(3, 3)
    logits = torch.einsum("bhqd,bhkd->bhqk", query, key.repeat_interleave(2, 1)) / 4 + bias
    weights = logits.masked_fill(~torch.ones(3, 3).tril().bool(), float("-inf")).softmax(-1)
    expected = weights @ value.repeat_interleave(2, 1)
    out = attend(query, key, value, mask, bias=bias, backend=backend)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_minus_infinity_is_not_to_be_read_at_all(backend, make_stream, blocks):
    """In the one step that has it; the other way round it is read as ever, and the bias learns."""
    torch.manual_seed(0)
    streams = {"a": make_stream(32, 1), "b": make_stream(16, 1)}
    pairs = Visibility({"a": "b", "b": ""})

    def run(table, start=None):
        bias = None if start is None else LogitBias(pairs, [0], start)
        mixture = Mixture(streams, {"a": "a", "b": "b"}, table, bias=bias, backend=backend)
        return mixture(blocks)[0], bias

    both = Visibility({"a": "a b", "b": "a b"}, causal={"a": "a"})
    never, _ = run(both, float("-inf"))
    alone, _ = run(Visibility({"a": "a", "b": "a b"}, causal={"a": "a"}))
    for name in ("a", "b"):
        torch.testing.assert_close(never[name], alone[name], atol=1e-6, rtol=0)
    out, bias = run(both, -1.0)
    out["a"].square().sum().backward()
    assert bias.values.grad.abs().max() > 0
    assert not torch.allclose(out["a"], alone["a"], atol=1e-3)


def test_a_bias_of_zero_changes_nothing(make_stream, blocks):
    torch.manual_seed(0)
    streams = {"a": make_stream(32), "b": make_stream(16)}
    plain, _ = Mixture(streams, {"a": "a", "b": "b"}, TABLE)(blocks)
    bias = LogitBias(Visibility({"a": "b", "b": ""}), [1, 2], 0.0)
    biased, _ = Mixture(streams, {"a": "a", "b": "b"}, TABLE, bias=bias)(blocks)
    torch.testing.assert_close(biased["a"], plain["a"], atol=1e-5, rtol=0)
