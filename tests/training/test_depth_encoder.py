"""A depth encoder is aligned, interrupted, taken up again, and handed on."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fathom.errors import UserError
from fathom.training import loop
from fathom.training.alignment import AlignRecipe, PairBatch, align, load_aligned
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.vlm.config import DepthVLMConfig
from fathom.vlm.pairs import read_pairs
from fathom.vlm.small import SmallSize, small_depth_vlm

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
    assert set(recall) == {"rgb_to_depth@1", "rgb_to_depth@5", "depth_to_rgb@1", "depth_to_rgb@5"}
    assert recall["rgb_to_depth@5"] == 1  # of two pairs, either is among the first five

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
    with pytest.raises(UserError, match="aligned with metric depth, and the model reads relative_inverse"):
        load_aligned(relative, tmp_path / "aligned")
    with pytest.raises(UserError, match="fusion = rgbd has no depth encoder"):
        load_aligned(model("rgbd"), tmp_path / "aligned")
    with pytest.raises(UserError, match="no aligned depth encoder"):
        load_aligned(model(), tmp_path)
    with pytest.raises(UserError, match="holds a run with other settings"):
        align(model(), pairs[:6], pairs[6:], replace(RECIPE, degrees=1.0), tmp_path / "aligned")


@pytest.mark.slow
def test_two_processes_align_as_one_does(pairs, tmp_path):
    """Each picture is told apart from those of both."""
    plain = small_depth_vlm(DepthVLMConfig(fusion="none"), ["left"], size=SIZE)
    plain.vlm.save_pretrained(tmp_path / "base")
    plain.processor.save(tmp_path / "base")
    options = {"steps": 3, "epochs": "None", "batch-size": 4, "precision": "fp32", "optimizer.lr": 1e-3}
    command = ["-m", "fathom", "vlm", "align", str(pairs[0].image.parent.parent), "--model", str(tmp_path / "base")]
    command += ["--held-out", "0.25", *(word for k, v in options.items() for word in (f"--training.{k}", str(v)))]
    alone = [sys.executable, *command, "--out", str(tmp_path / "one")]
    both = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]
    for words in (alone, [*both, "--out", str(tmp_path / "two")]):
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
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
