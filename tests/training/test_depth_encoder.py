"""A depth encoder is aligned, interrupted, taken up again, and handed on."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fathom.cli.main import main
from fathom.depth.depth_map import LogRange
from fathom.errors import UserError
from fathom.training import alignment, loop
from fathom.training.alignment import AlignRecipe, PairBatch, align, load_aligned, measure_recall
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.training.device import pick_device
from fathom.training.distributed import ALONE
from fathom.vlm.config import DepthVLMConfig
from fathom.vlm.pairs import read_pairs
from fathom.vlm.saving import start_depth_vlm
from fathom.vlm.small import SmallSize, small_depth_vlm

from .processes import Ranks

SIZE = SmallSize(width=16, layers=1, vision_width=16, vision_layers=2, patch=4, image=16)
TRAINING = TrainingConfig(
    steps=4, batch_size=4, precision="fp32", log_every=1, checkpoint_every=2, optimizer=OptimizerConfig(lr=1e-3)
)
RECIPE = AlignRecipe(level="image", training=TRAINING)


def model(fusion="concat"):
    return small_depth_vlm(DepthVLMConfig(fusion=fusion), ["left"], size=SIZE)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for place in ("images", "depth"):
        (folder / place).mkdir()
    for number in range(8):
        side = (16, 20)[number % 2]
        Image.fromarray(rng.integers(0, 255, (16, side, 3), dtype=np.uint8)).save(folder / f"images/{number}.png")
        depth = rng.integers(500, 5000, (16, side), dtype=np.uint16)
        Image.fromarray(depth).save(folder / f"depth/{number}.png")
    return read_pairs(folder)[0]


def test_parts_of_a_batch_are_its_pictures(pairs):
    whole = model().processor.look(
        [Image.open(pair.image).convert("RGB") for pair in pairs[:3]],
        [np.asarray(Image.open(pair.depth), np.float32) / 1000 for pair in pairs[:3]],
    )
    parts = PairBatch(**whole).split(2)
    assert [len(part) for part in parts] == [2, 1]
    for name, tensor in whole.items():
        assert torch.equal(torch.cat([part.inputs[name] for part in parts]), tensor)
    assert int(parts[1].image_grid_thw.prod()) == len(parts[1].pixel_values) == len(parts[1].depth_values)


@pytest.mark.parametrize("level", ["image", "patch"])
def test_an_interrupted_alignment_comes_to_the_same_encoder(pairs, tmp_path, monkeypatch, level):
    recipe = replace(RECIPE, level=level)
    undisturbed = model()
    recall = align(undisturbed, pairs[:6], pairs[6:], recipe, tmp_path / "one")
    start = model().depth_encoder.state_dict()
    assert any(not torch.equal(v, start[k]) for k, v in undisturbed.depth_encoder.state_dict().items())
    directions = {"rgb_to_depth@1", "rgb_to_depth@5", "depth_to_rgb@1", "depth_to_rgb@5"}
    assert set(recall) == {f"{among}_{name}" for among in ("image", "patch") for name in directions}
    assert all(value in (0.0, 0.5, 1.0) for name, value in recall.items() if name.startswith("image"))  # of two pairs

    write, steps = loop._Metrics.write, []

    def interrupted(self, step, **extra):
        steps.append(step)
        if step == 4:
            raise KeyboardInterrupt
        return write(self, step, **extra)

    monkeypatch.setattr(loop._Metrics, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        align(model(), pairs[:6], pairs[6:], recipe, tmp_path / "two")
    monkeypatch.setattr(loop._Metrics, "write", write)
    resumed = model()
    assert align(resumed, pairs[:6], pairs[6:], recipe, tmp_path / "two") == recall
    for name, tensor in undisturbed.depth_encoder.state_dict().items():
        assert torch.equal(tensor, resumed.depth_encoder.state_dict()[name]), name


def test_recall_is_counted_among_pictures_and_among_the_patches_of_each(pairs):
    """A depth encoder that says what the tower says, of every picture but the last, whose patches are in reverse."""
    patches = list(torch.eye(30).split(6))
    alignment = Mock(features=Mock(side_effect=[(patches[:4], patches[:4]), (patches[4:], [patches[4].flip(0)])]))
    recall = measure_recall(model(), alignment, pairs[:5], batch_size=4)
    assert {recall[f"image_{way}"] for way in ("rgb_to_depth@1", "depth_to_rgb@5")} == {1.0}  # a mean has no order
    assert recall["patch_rgb_to_depth@1"] == recall["patch_depth_to_rgb@1"] == 4 / 5


def test_an_aligned_encoder_is_handed_on(pairs, tmp_path):
    taught = model()
    recall = align(taught, pairs[:6], pairs[6:], RECIPE, tmp_path / "aligned")
    other = model("adapter")
    assert load_aligned(other, tmp_path / "aligned") == recall
    for name, tensor in taught.depth_encoder.state_dict().items():
        assert torch.equal(tensor, other.depth_encoder.state_dict()[name])
    again = model()
    assert align(again, pairs[:6], pairs[6:], RECIPE, tmp_path / "aligned") == recall  # done: read, not trained
    assert torch.equal(next(again.depth_encoder.parameters()), next(taught.depth_encoder.parameters()))
    relative = small_depth_vlm(DepthVLMConfig(fusion="concat", depth_kind="relative_inverse"), ["left"], size=SIZE)
    with pytest.raises(UserError, match=r"with depth_kind = metric, and .* relative_inverse: .*--model.depth-kind"):
        load_aligned(relative, tmp_path / "aligned")
    nearer = small_depth_vlm(DepthVLMConfig(fusion="concat", depth_range=LogRange(0.1, 5.0)), ["left"], size=SIZE)
    with pytest.raises(UserError, match=r"depth_range = .*100.0.*, and the model has .*5.0"):
        load_aligned(nearer, tmp_path / "aligned")
    elsewhere = model()
    elsewhere.config = replace(elsewhere.config, base="Qwen/Another")
    with pytest.raises(UserError, match=r"base = None, and the model has Qwen/Another: .*--model$"):
        load_aligned(elsewhere, tmp_path / "aligned")
    with pytest.raises(UserError, match="fusion = rgbd has no depth encoder"):
        load_aligned(model("rgbd"), tmp_path / "aligned")
    with pytest.raises(UserError, match="no aligned depth encoder"):
        load_aligned(model(), tmp_path)
    with pytest.raises(UserError, match="holds a run with other settings"):
        align(model(), pairs[:6], pairs[6:], replace(RECIPE, degrees=1.0), tmp_path / "aligned")
    with pytest.raises(UserError, match=r"made_from.base is None there and Qwen/Another here"):
        align(elsewhere, pairs[:6], pairs[6:], RECIPE, tmp_path / "aligned")
    with pytest.raises(UserError, match=r"made_from.pairs is "):
        align(model(), pairs[1:6], pairs[6:], RECIPE, tmp_path / "aligned")
    with pytest.raises(UserError, match=r"made_from.depth_kind is metric there and relative_inverse here"):
        align(relative, pairs[:6], pairs[6:], RECIPE, tmp_path / "aligned")


def test_no_picture_is_its_own_negative(pairs, monkeypatch):
    """Not even where a batch meets the end of an epoch."""
    monkeypatch.setattr(alignment, "_read", lambda model, chosen, *_: [pair.name for pair in chosen])
    config = replace(TRAINING, batch_size=4)
    batches = alignment._batches(None, pairs[:6], replace(RECIPE, training=config), config, ALONE)(0)
    seen = list(islice(batches, 20))
    assert all(len(set(names)) == 4 for names in seen)
    assert {name for names in seen for name in names} == {pair.name for pair in pairs[:6]}
    with pytest.raises(UserError, match="batch_size is 8, and there are 6 pairs"):
        align(model(), pairs[:6], pairs[6:], replace(RECIPE, training=replace(TRAINING, batch_size=8)), Path("none"))


def test_what_is_learnt_from_is_mirrored_and_turned_and_what_is_tested_is_not(pairs, monkeypatch):
    asked = []
    monkeypatch.setattr(
        alignment, "flip_and_turn", lambda image, depth, rng, degrees: asked.append(degrees) or (image, depth)
    )
    next(alignment._batches(model(), pairs, replace(RECIPE, degrees=7.0), TRAINING, ALONE)(0))
    assert asked == [7.0] * 4
    alignment._read(model(), pairs[:2])
    assert len(asked) == 4


def test_only_the_tower_is_kept_to_align_with(pairs, tmp_path):
    plain = small_depth_vlm(DepthVLMConfig(fusion="none"), ["left"], size=SIZE)
    plain.save(tmp_path / "base")
    recipe = replace(RECIPE, depth_range=LogRange(0.2, 9.0))
    found = alignment.start_aligning(tmp_path / "base", "concat", "metric", recipe)
    assert not [name for name, _ in found.named_parameters() if "language_model" in name or "lm_head" in name]
    assert found.config.depth_range == recipe.depth_range
    align(found, pairs[:6], pairs[6:], recipe, tmp_path / "aligned")
    whole = start_depth_vlm(tmp_path / "base", found.config)
    load_aligned(whole, tmp_path / "aligned")
    assert torch.equal(next(whole.depth_encoder.parameters()), next(found.depth_encoder.parameters()))


@pytest.mark.slow
def test_two_processes_align_as_one_does(pairs, tmp_path):
    """Each picture is told apart from those of both."""
    plain = small_depth_vlm(DepthVLMConfig(fusion="none"), ["left"], size=SIZE)
    plain.vlm.save_pretrained(tmp_path / "base")
    plain.processor.save(tmp_path / "base")
    options = {"steps": 3, "epochs": "None", "batch-size": 4, "precision": "fp32", "optimizer.lr": 1e-3}
    words = ["vlm", "align", str(pairs[0].image.parent.parent), "--model", str(tmp_path / "base")]
    words += ["--held-out", "0.25", *(word for k, v in options.items() for word in (f"--training.{k}", str(v)))]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    codes, said = Ranks(2, tmp_path, main, [*words, "--out", str(tmp_path / "two")]).finish()
    assert codes == [0, 0], said
    one, two = (load_file(tmp_path / name / "depth_encoder.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=2e-5), name


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="micro_batch would change the loss"):
        AlignRecipe(level="image", training=replace(TRAINING, micro_batch=2))
    with pytest.raises(ValueError, match="held_out is 1"):
        AlignRecipe(held_out=1.0)


def test_bad_depth_among_the_pairs_is_named(pairs, tmp_path):
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "colourful.png")
    bad = [replace(pair, depth=tmp_path / "colourful.png") for pair in pairs[:6]]
    with pytest.raises(UserError, match=r"colourful.png has 3 channels, and depth has one"):
        align(model(), bad, pairs[6:], RECIPE, tmp_path / "run")


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device() == torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")
