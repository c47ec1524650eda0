"""Depth codes written into a dataset, and a training that reads them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fathom.data.dataset import open_dataset
from fathom.data.extend import FeatureAdder
from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.training.augment import Augmentation
from fathom.training.encode import encode, stored_codes
from fathom.training.policy import train_policy
from fathom.weights import fingerprint

from .conftest import POLICY, TRAINING


@pytest.fixture
def own(dataset, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(dataset, tmp_path / "own"))


def metrics(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])


def tables(root: Path):
    return {path: pq.read_table(path) for path in sorted(root.glob("data/**/*.parquet"))}


def test_the_codes_are_the_tokenizers_and_the_rest_stays(own, tokenizer):
    before = tables(own)
    assert encode(own, tokenizer) == 4
    for path, table in tables(own).items():
        assert table.drop_columns(["depth.codes"]).equals(before[path].replace_schema_metadata(table.schema.metadata))
        note = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["depth.codes"]
        assert note == {"feature": {"dtype": "int16", "_type": "Value"}, "length": 64, "_type": "List"}
    dataset = open_dataset(own, depth=True)
    depth = np.stack([dataset.picture("observation.images.main_depth", i) for i in range(len(dataset))])
    expected = tokenizer.encode(torch.from_numpy(depth))
    assert dataset.info.features["depth.codes"].shape == (64,)
    assert np.array_equal(dataset.columns["depth.codes"], expected.numpy())
    stats = json.loads((own / "meta" / "stats.json").read_text())["depth.codes"]
    assert stats["max"] == expected.amax(0).tolist() and stats["count"] == [32]
    record = json.loads((own / "meta" / "depth_codes.json").read_text())["depth.codes"]
    assert record == {"tokenizer": fingerprint(tokenizer), "depth": "observation.images.main_depth"}
    assert not own.with_name("own.adding-codes").exists()
    with pytest.raises(UserError, match=r"has a feature 'depth\.codes' already"):
        encode(own, tokenizer)


def test_a_killed_run_goes_on_and_until_then_nothing_is_seen(own, tokenizer, monkeypatch):
    stage, done = FeatureAdder.stage, []

    def killed(self, episode, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(episode)
        stage(self, episode, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureAdder, "stage", killed)
        with pytest.raises(KeyboardInterrupt):
            encode(own, tokenizer)
    assert "depth.codes" not in open_dataset(own).info.features
    other = DepthTokenizer(tokenizer.config)
    with pytest.raises(UserError, match="made from something else"):
        encode(own, other)
    encode(own, tokenizer)
    dataset = open_dataset(own, depth=True)
    first = torch.from_numpy(dataset.picture("observation.images.main_depth", 0))[None]
    assert np.array_equal(dataset.columns["depth.codes"][:1], tokenizer.encode(first).numpy())


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_training_reads_them_and_learns_the_same(in_memory, dataset, own, tokenizer, tmp_path, monkeypatch):
    recipe = replace(POLICY, training=replace(TRAINING, steps=1, in_memory=in_memory))
    train_policy(dataset, recipe, tmp_path / "computed", tokenizer)
    encode(own, tokenizer)

    def refused(*_):
        raise AssertionError("the codes are there: nothing is to be encoded")

    monkeypatch.setattr(DepthTokenizer, "encode", refused)
    train_policy(own, recipe, tmp_path / "read", tokenizer)
    computed, read = metrics(tmp_path / "computed"), metrics(tmp_path / "read")
    for name in ("depth_loss", "depth_accuracy"):
        assert read[name] == pytest.approx(computed[name], rel=1e-6), name


def test_with_a_crop_codes_are_computed_for_what_is_seen(own, tokenizer, tmp_path, monkeypatch):
    encode(own, tokenizer)
    seen = []
    monkeypatch.setattr(
        DepthTokenizer,
        "encode",
        lambda self, depth, encode=DepthTokenizer.encode: (seen.append(len(depth)), encode(self, depth))[1],
    )
    recipe = replace(POLICY, training=replace(TRAINING, steps=2), augmentation=Augmentation())
    train_policy(own, recipe, tmp_path / "run", tokenizer)
    assert seen == [4, 4]


def test_another_tokenizers_codes_are_refused_until_there_are_its_own(own, tokenizer):
    encode(own, tokenizer)
    other = DepthTokenizer(tokenizer.config).eval()
    with torch.no_grad():
        other.quantizer._codebook.embed.normal_()
    dataset = open_dataset(own, depth=True)
    with pytest.raises(
        UserError, match=r"depth\.codes holds the codes of another depth tokenizer.*--name depth\.codes_2"
    ):
        stored_codes(dataset, other)
    encode(own, other, name="depth.codes_2")
    dataset = open_dataset(own, depth=True)
    assert stored_codes(dataset, other) == "depth.codes_2"
    assert stored_codes(dataset, tokenizer) == "depth.codes"


def test_a_tokenizer_without_codes(own, tokenizer):
    with pytest.raises(UserError, match="no codes"):
        encode(own, DepthTokenizer(replace(tokenizer.config, quantizer="none")))
