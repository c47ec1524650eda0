"""Tensor by tensor, and still the file that the library itself would read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from fathom.policies.weights.checkpoint import FLOATS, Entry
from fathom.policies.weights.streaming import write_safetensors

SHAPES = st.lists(st.integers(1, 5), max_size=3).map(tuple)
ENTRIES = st.dictionaries(st.text(min_size=1, max_size=8), st.builds(Entry, SHAPES, st.sampled_from(sorted(FLOATS))))


@settings(max_examples=50, deadline=None)
@given(ENTRIES, st.randoms())
def test_the_library_reads_what_was_written(tmp_path_factory, entries, random):
    """Any shapes, types and names, written in any order."""
    entries = {key: entry for key, entry in entries.items() if key != "__metadata__"}
    tensors = {key: torch.randn(entry.shape).to(FLOATS[entry.dtype]) for key, entry in entries.items()}
    path = tmp_path_factory.mktemp("file") / "model.safetensors"
    order = list(tensors.items())
    random.shuffle(order)
    write_safetensors(path, entries, order)
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor)


def test_a_view_is_written_as_it_looks(tmp_path):
    tensor = torch.arange(6.0).reshape(2, 3)
    write_safetensors(tmp_path / "a", {"t": Entry((3, 2), "F32")}, [("t", tensor.T)])
    assert torch.equal(load_file(tmp_path / "a")["t"], tensor.T)


@pytest.mark.parametrize(
    "tensors",
    [
        [("a", torch.zeros(3))],
        [("a", torch.zeros(2, dtype=torch.float64))],
        [("b", torch.zeros(2))],
        [("a", torch.zeros(2)), ("a", torch.zeros(2))],
        [],
    ],
    ids=["another shape", "another type", "another name", "twice", "nothing"],
)
def test_what_was_not_announced_leaves_no_file(tmp_path, tensors):
    with pytest.raises(ValueError, match="announced"):
        write_safetensors(tmp_path / "file", {"a": Entry((2,), "F32")}, tensors)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_fails_half_way_leaves_no_file(tmp_path):
    def tensors():
        yield "a", torch.zeros(2)
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        write_safetensors(tmp_path / "file", {"a": Entry((2,), "F32"), "b": Entry((2,), "F32")}, tensors())
    assert list(tmp_path.iterdir()) == []
