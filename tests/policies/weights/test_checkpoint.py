"""What can be opened, and what is refused with one sentence."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fathom.errors import UserError
from fathom.policies.weights.checkpoint import Entry, open_checkpoint

WEIGHTS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "a.bias": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "b": torch.tensor(3.0, dtype=torch.float16),
    "count": torch.tensor([7]),
}
FLOATS = {
    "a.weight": Entry((2, 3), "F32"),
    "a.bias": Entry((2,), "BF16"),
    "b": Entry((), "F16"),
}
COMPILED = {f"_orig_mod.{key}": value for key, value in WEIGHTS.items()}


def shards(folder: Path) -> Path:
    folder.mkdir()
    where = {
        "a.weight": "one.safetensors",
        "a.bias": "one.safetensors",
        "b": "two.safetensors",
        "count": "two.safetensors",
    }
    for name in ("one.safetensors", "two.safetensors"):
        save_file({key: WEIGHTS[key] for key, file in where.items() if file == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def whole(folder: Path) -> Path:
    folder.mkdir()
    save_file(WEIGHTS, folder / "model.safetensors")
    return folder


def saved(content: object, path: Path, **options) -> Path:
    torch.save(content, path, **options)
    return path


def safetensors(path: Path) -> Path:
    save_file(WEIGHTS, path)
    return path


MAKERS = {
    "a safetensors file": lambda tmp: safetensors(tmp / "any.safetensors"),
    "a folder": lambda tmp: whole(tmp / "folder"),
    "shards and their index": lambda tmp: shards(tmp / "folder"),
    "a state dict": lambda tmp: saved(WEIGHTS, tmp / "a.pt"),
    "as open-pi-zero publishes": lambda tmp: saved(
        {"cnt_update": 3, "model": COMPILED, "wandb_id": None}, tmp / "a.pt"
    ),
    "torch.save before 2020": lambda tmp: saved(WEIGHTS, tmp / "a.pt", _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_names_shapes_types_and_values(tmp_path, kind):
    checkpoint = open_checkpoint(MAKERS[kind](tmp_path))
    integers = "torch.int64" if checkpoint.path.suffix == ".pt" else "I64"
    assert dict(checkpoint.entries) == {**FLOATS, "count": Entry((1,), integers)}
    for key, value in WEIGHTS.items():
        assert torch.equal(checkpoint.read(key), value)


class Malicious:
    """Unpickling it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("form", ["a pickle", "torch.save", "beside the weights"])
def test_a_pickle_that_carries_code_is_not_run(tmp_path, form):
    path, evil = tmp_path / "model.pt", Malicious(tmp_path / "trace")
    if form == "a pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save({"model": WEIGHTS, "extra": evil} if form == "beside the weights" else evil, path)
    with pytest.raises(UserError, match=rf"{path} is a pickle of more than tensors, .* not read"):
        open_checkpoint(path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("kind", ["a safetensors file", "a state dict", "torch.save before 2020"])
@pytest.mark.parametrize("left", [0, 5, 60, 0.5, 0.99])
def test_a_file_cut_short(tmp_path, kind, left):
    path = MAKERS[kind](tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: left if isinstance(left, int) else int(left * len(content))])
    with pytest.raises(UserError, match=str(path)) as refusal:
        open_checkpoint(path)
    assert "again" in str(refusal.value) or "pickle" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_shard_cut_short(tmp_path):
    path = shards(tmp_path / "folder") / "two.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match=rf"{path} is cut short"):
        open_checkpoint(path.parent)


def test_a_shard_that_is_not_there(tmp_path):
    path = shards(tmp_path / "folder") / "two.safetensors"
    path.unlink()
    with pytest.raises(UserError, match=rf"{path} is missing"):
        open_checkpoint(path.parent)


def test_shards_without_their_index(tmp_path):
    folder = shards(tmp_path / "folder")
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        open_checkpoint(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index(tmp_path, content):
    folder = shards(tmp_path / "folder")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match="index"):
        open_checkpoint(folder)


def test_an_index_that_names_more_than_there_is(tmp_path):
    folder = shards(tmp_path / "folder")
    index = folder / "model.safetensors.index.json"
    where = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**where, "c.weight": "one.safetensors"}}))
    with pytest.raises(UserError, match=r"no shard has \(c\.weight\)"):
        open_checkpoint(folder)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        open_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("content", [[1, 2], {"model": {"a": 3}}, {"a": 3}, {}, "text"])
def test_a_file_of_something_else(tmp_path, content):
    path = saved(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match="holds no weights by name"):
        open_checkpoint(path)
