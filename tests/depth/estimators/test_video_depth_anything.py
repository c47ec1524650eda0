"""Video-Depth-Anything as an estimator: official checkpoints in, depth out, no work done twice."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fathom.depth.estimators import open_estimator
from fathom.depth.estimators.video_depth_anything import SIZES, VideoDepthAnything, VideoDepthModel, load_model
from fathom.depth.estimators.video_depth_anything.estimator import input_shape
from fathom.depth.estimators.video_depth_anything.weights import official_name, read_tensors
from fathom.errors import UserError

KEYS = json.loads((Path(__file__).parents[2] / "golden" / "video_depth_anything_keys.json").read_text())


@pytest.mark.parametrize(("size", "official"), [("small", "vits"), ("base", "vitb"), ("large", "vitl")])
def test_the_released_checkpoints_have_our_names_and_shapes(size, official, make_state):
    config = SIZES[size]
    arguments = KEYS["configs"][official]
    assert (config.features, list(config.out_channels)) == (arguments["features"], arguments["out_channels"])
    with torch.device("meta"):
        model = VideoDepthModel(config)
        assert {name: list(tensor.shape) for name, tensor in make_state(model).items()} == KEYS["keys"][official]
        released = {name: torch.empty(shape) for name, shape in KEYS["keys"][official].items()}
        load_model(config, released, Path("released"))


def test_older_names_of_transformers_are_known():
    layer = "encoder.encoder.layer.3"
    assert official_name(f"{layer}.attention.attention.key.bias") == ("pretrained.blocks.3.attn.qkv.bias", 1)
    assert official_name(f"{layer}.attention.output.dense.weight") == ("pretrained.blocks.3.attn.proj.weight", None)


@pytest.mark.parametrize(("kind", "metric"), [("relative_inverse", False), ("metric", True)])
@pytest.mark.parametrize("count", [1, 20, 40, 46, 47, 70])
def test_the_same_depth_as_the_official_procedure(tiny, frames, kind, metric, count):
    from peers.video_depth_anything import OfficialVideoDepthAnything

    video = frames(count)
    expected = OfficialVideoDepthAnything(tiny, 70, metric=metric).infer(video)
    depth = VideoDepthAnything(tiny, kind, input_size=70).estimate(video)
    assert depth.kind == kind and depth.values.shape == expected.shape
    np.testing.assert_allclose(depth.values, expected, atol=1e-5 * np.ptp(expected))


def test_relative_and_metric_windows_are_joined_differently(tiny, frames):
    video = frames(40)
    relative, metric = (
        VideoDepthAnything(tiny, kind, input_size=70).estimate(video).values for kind in ("relative_inverse", "metric")
    )
    assert np.abs(relative - metric).max() > 1e-3 * np.ptp(relative)


@pytest.mark.parametrize("at_once", [1, 3])
def test_several_episodes_at_once_are_as_one_by_one(tiny, frames, at_once):
    estimator = VideoDepthAnything(tiny, "relative_inverse", input_size=70)
    estimator._windows_at_once = at_once
    episodes = [frames(count, seed=count) for count in (7, 47, 1, 40)]
    for depth, video in zip(estimator.estimate_many(episodes), episodes, strict=True):
        expected = estimator.estimate(video).values
        np.testing.assert_allclose(depth.values, expected, atol=1e-5 * np.ptp(expected))
    mixed = estimator.estimate_many([frames(3), frames(3, 42, 28)])
    assert [depth.values.shape for depth in mixed] == [(3, 28, 42), (3, 42, 28)]


def test_each_frame_is_encoded_once(tiny, frames, monkeypatch):
    seen = []
    see = VideoDepthModel.see
    monkeypatch.setattr(VideoDepthModel, "see", lambda self, pixels: seen.append(len(pixels)) or see(self, pixels))
    VideoDepthAnything(tiny, "relative_inverse", input_size=70).estimate_many([frames(40), frames(70)])
    assert sum(seen) == 110


def test_the_same_bits_every_time(tiny, frames):
    estimator = VideoDepthAnything(tiny, "relative_inverse", input_size=70)
    video = frames(40)
    assert np.array_equal(estimator.estimate(video).values, estimator.estimate(video).values)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (518, 686)),
        (640, 480, (686, 518)),
        (256, 256, (518, 518)),
        (1080, 1920, (518, 924)),
        (400, 800, (462, 924)),
    ],
)
def test_input_shape(height, width, expected):
    """By hand: the shorter side becomes 518, the longer the nearest 14; 2 : 1 makes the shorter 518 · 1.777/2 = 460."""
    assert input_shape(height, width, 518) == expected


@pytest.fixture
def small(monkeypatch, tmp_path, tiny, make_state):
    """A checkpoint under its official name; the tiny size stands for the smallest released one."""
    monkeypatch.setitem(SIZES, "small", tiny.config)
    path = tmp_path / "video_depth_anything_vits.pth"
    torch.save(make_state(), path)
    return path


@pytest.mark.parametrize("form", ["file", "folder", "safetensors"])
def test_an_official_checkpoint_opens(small, frames, form):
    source = small
    if form == "safetensors":
        source = small.with_suffix(".safetensors")
        save_file(read_tensors(small), source)
    elif form == "folder":
        source = small.parent
    estimator = open_estimator("video-depth-anything", source, size=70)
    depth = estimator.estimate(frames(3), episode=5)
    assert depth.kind == estimator.kind == "relative_inverse"
    assert depth.values.shape == (3, 28, 42) and depth.valid.all()
    assert {"estimator": "video-depth-anything", "size": "small", "input_size": 70}.items() <= depth.provenance.items()


def test_metric_weights_are_metric(small, frames):
    path = small.rename(small.with_name("metric_video_depth_anything_vits.pth"))
    estimator = open_estimator("metric-video-depth-anything", path, size=70)
    depth = estimator.estimate(frames(2))
    assert estimator.kind == depth.kind == "metric"
    assert np.array_equal(depth.valid, depth.values > 0)
    with pytest.raises(UserError, match="weights for metric depth, not relative_inverse: take the estimator metric-"):
        open_estimator("video-depth-anything", path)


def rewritten(path: Path, change) -> Path:
    tensors = {name: tensor.clone() for name, tensor in read_tensors(path).items()}
    change(tensors)
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.update({"pretrained.pos_embed": torch.zeros(1, 26, 500)}), "another size: .* 500 wide"),
        (lambda t: t.pop("pretrained.pos_embed"), "no checkpoint of Video-Depth-Anything"),
        (lambda t: t.pop("head.scratch.output_conv1.bias"), "missing head.scratch.output_conv1.bias"),
        (lambda t: t.update(other=torch.zeros(2)), "unknown other"),
        (lambda t: t.update({"head.projects.1.bias": torch.zeros(3)}), "head.projects.1.bias is 3, expected 32"),
    ],
)  # fmt: skip
def test_checkpoints_that_do_not_fit(small, change, sentence):
    with pytest.raises(UserError, match=sentence):
        open_estimator("video-depth-anything", rewritten(small, change), size=70)


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_files_that_are_no_checkpoint(small, tmp_path, capsys):
    def refused(source, sentence):
        with pytest.raises(UserError, match=sentence):
            open_estimator("video-depth-anything", source, size=70)

    torch.save({"weights": Evil()}, evil := tmp_path / "evil.pth")
    refused(evil, "pickle of more than tensors")
    assert "run" not in capsys.readouterr().out
    refused(tmp_path, "should hold one checkpoint")
    torch.save([1, 2], small)
    refused(small, "no tensors by name")
    small.write_bytes(small.read_bytes()[:50])
    refused(small, "cut short")
    refused(tmp_path / "nowhere", "no such folder")
    refused(None, "needs weights: a .pth or .safetensors file")


def test_half_precision_checkpoints_become_single(small, frames):
    rewritten(small, lambda t: t.update({name: tensor.half() for name, tensor in t.items()}))
    assert open_estimator("video-depth-anything", small, size=70).estimate(frames(1)).values.dtype == np.float32


def test_sizes_and_names_that_are_none(small):
    with pytest.raises(UserError, match="input size is 100: it must be a multiple of 14"):
        open_estimator("video-depth-anything", small, size=100)
    with pytest.raises(UserError, match="no estimator 'vda': it is one of video-depth-anything, metric-"):
        open_estimator("vda", small)


def test_an_episode_without_frames(tiny):
    with pytest.raises(UserError, match="no frames"):
        VideoDepthAnything(tiny, "metric", input_size=70).estimate(np.zeros((0, 28, 28, 3), np.uint8))
