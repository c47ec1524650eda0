"""Depth Anything of transformers, from a folder on the disk and without torchvision."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

from fathom.depth.estimators import open_estimator
from fathom.errors import UserError

PROCESSOR = {
    "image_processor_type": "DPTImageProcessor",
    "do_resize": True, "size": {"height": 70, "width": 70}, "keep_aspect_ratio": True, "ensure_multiple_of": 14,
    "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255, "do_pad": False,
    "do_normalize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip


@pytest.fixture
def saved(tmp_path):
    """Writes a small random Depth Anything, and returns its folder and itself."""

    def write(**changes) -> tuple[Path, DepthAnythingForDepthEstimation]:
        backbone = Dinov2Config(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=70,
            out_indices=[1, 2, 3, 4],
            reshape_hidden_states=False,
        )
        torch.manual_seed(0)
        config = DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=32,
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=16,
            head_hidden_size=8,
            **changes,
        )
        model = DepthAnythingForDepthEstimation(config).eval()
        with torch.no_grad():
            model.head.conv3.bias.fill_(0.5)
        folder = tmp_path / "metric-looking-name"
        model.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
        return folder, model

    return write


@pytest.mark.parametrize(("said", "kind"), [("relative", "relative_inverse"), ("metric", "metric")])
def test_the_kind_is_what_the_configuration_says(saved, frames, said, kind):
    folder, _ = saved(depth_estimation_type=said, max_depth=20 if said == "metric" else 1)
    estimator = open_estimator("transformers", folder)
    depth = estimator.estimate(frames(11), episode=3)
    assert estimator.kind == depth.kind == kind
    assert depth.values.shape == (11, 28, 42) and depth.values.dtype == np.float32 and depth.valid.all()
    assert depth.provenance["input_size"] == {"height": 70, "width": 70}


def test_the_depth_is_the_models(saved, frames):
    """Pictures of the network's size need no resizing, so that its input can be written down here."""
    folder, model = saved()
    video = frames(10, 70, 84)
    mean, std = (torch.tensor(PROCESSOR[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    pixels = (torch.from_numpy(video).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        expected = model(pixel_values=pixels).predicted_depth.numpy()
    assert expected.std() > 0
    np.testing.assert_allclose(open_estimator("transformers", folder).estimate(video).values, expected, atol=1e-5)


def test_the_input_size_can_be_chosen(saved, frames):
    folder, _ = saved()
    depths = [open_estimator("transformers", folder, size=size).estimate(frames(1)) for size in (42, 70)]
    assert not np.array_equal(depths[0].values, depths[1].values)
    assert depths[0].provenance["input_size"] == 42


def test_torchvision_is_not_imported(saved, frames):
    open_estimator("transformers", saved()[0]).estimate(frames(1))
    assert "torchvision" not in sys.modules


def rewrite_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite_weights(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


BAD = {
    "no such model": (lambda f: rewrite_config(f, model_type="bert"), "no depth estimator of transformers"),
    "weights missing": (lambda f: (f / "model.safetensors").unlink(), "no depth estimator .*model.safetensors"),
    "weights cut short": (lambda f: (f / "model.safetensors").write_bytes(b"abc"), "no depth estimator"),
    "no processor": (lambda f: (f / "preprocessor_config.json").unlink(), "there is no image processor in"),
    "a tensor less": (lambda f: rewrite_weights(f, lambda t: t.pop("head.conv1.bias")), "missing head.conv1.bias"),
    "a tensor more": (lambda f: rewrite_weights(f, lambda t: t.update(more=torch.ones(1))), "unknown more"),
    "another shape": (
        lambda f: rewrite_weights(f, lambda t: t.update({"head.conv1.bias": torch.ones(3)})),
        "head.conv1.bias of another shape",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_folders_that_do_not_fit(saved, name):
    damage, sentence = BAD[name]
    folder, _ = saved()
    damage(folder)
    with pytest.raises(UserError, match=sentence):
        open_estimator("transformers", folder)


def test_a_model_that_does_not_say_which_depth(tmp_path):
    """GLPN's configuration has no such field; it is not guessed."""
    from transformers import GLPNConfig, GLPNForDepthEstimation

    config = GLPNConfig(
        num_encoder_blocks=4, depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8
    )
    GLPNForDepthEstimation(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match='depth_estimation_type is None; add "relative"'):
        open_estimator("transformers", tmp_path)


def test_no_weights():
    with pytest.raises(UserError, match="transformers needs weights"):
        open_estimator("transformers", None)
