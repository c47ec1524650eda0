"""``fathom verify video-depth-anything``: the recorded numbers, and any other size in their layout."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fathom.cli.main import main
from fathom.depth.estimators.verify import verify_video_depth_anything
from fathom.depth.estimators.video_depth_anything import EncoderConfig, VideoDepthConfig

TINY = VideoDepthConfig(EncoderConfig(48, 4, 3, (0, 1, 2, 3), 70), 32, (32, 32, 32, 32))


def rewrite(path: str, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_the_golden_files_hold(golden, capsys):
    assert main(["verify", "video-depth-anything", golden]) == 0
    verdict = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert verdict["ok"] is True
    assert set(verdict["max"]) == set(verdict["tolerance"]) == {"clip", "video"}
    expected = load_file(f"{golden}.cases.safetensors")
    for name, largest in verdict["max"].items():
        depth = expected[f"expected_{name}_depth"]
        span = (depth.max() - depth.min()).item()
        assert verdict["tolerance"][name] == pytest.approx(1e-3 * span)
        assert largest < 1e-5 * span


def test_the_reference_of_these_tests_gives_what_was_recorded(tiny, recorded):
    from peers.video_depth_anything import OfficialVideoDepthAnything

    peer = OfficialVideoDepthAnything(tiny, 70)
    with torch.no_grad():
        clip = peer.forward(recorded["clip"])
    torch.testing.assert_close(clip, recorded["expected_clip_depth"], atol=5e-5, rtol=0)
    video = torch.from_numpy(peer.infer(recorded["video"].numpy()))
    torch.testing.assert_close(video, recorded["expected_video_depth"], atol=5e-5, rtol=0)


WIDER = replace(TINY, encoder=EncoderConfig(96, 6, 6, (0, 2, 3, 5), 98))
UNREAD = replace(TINY, encoder=EncoderConfig(32, 5, 2, (0, 1, 2, 3), 28))
HEAD = replace(TINY, features=64, out_channels=(16, 24, 64, 96))

# model, input size, clip, frames and size of the video
OTHERS = {
    "a wider encoder": (WIDER, 56, (1, 4, 3, 56, 70), (35, 30, 40)),
    "layers that are not read": (UNREAD, 42, (1, 3, 3, 42, 42), (24, 20, 20)),
    "a wider head": (HEAD, 42, (2, 5, 3, 28, 42), (33, 30, 40)),
    "pictures of the trained size": (TINY, 70, (1, 2, 3, 70, 70), (23, 64, 64)),
    "tall pictures": (TINY, 42, (1, 2, 3, 70, 42), (26, 60, 40)),
    "very wide pictures": (TINY, 70, (1, 2, 3, 28, 98), (25, 20, 64)),
    "one frame": (TINY, 42, (1, 1, 3, 42, 42), (1, 30, 30)),
    "a full window": (TINY, 28, (1, 32, 3, 28, 28), (32, 30, 30)),
    "a window that adds nothing": (TINY, 28, (1, 7, 3, 28, 28), (46, 30, 30)),
    "a window that adds one frame": (TINY, 28, (1, 7, 3, 28, 28), (26, 30, 30)),
    "four windows": (TINY, 28, (1, 8, 3, 28, 28), (80, 30, 30)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_sizes_hold(record, name):
    verdict = verify_video_depth_anything(record(*OTHERS[name]))
    assert verdict["ok"], verdict
    assert all(largest <= 0.1 * verdict["tolerance"][case] for case, largest in verdict["max"].items())


@pytest.mark.parametrize("case", ["clip", "video"])
def test_another_depth_fails(copied, case, capsys):
    def change(tensors):
        tensors[f"expected_{case}_depth"].flatten()[100] += 0.1

    rewrite(f"{copied}.cases.safetensors", change)
    assert main(["verify", "video-depth-anything", copied]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ok"] is False


def test_other_weights_fail(copied):
    rewrite(
        f"{copied}.weights.safetensors", lambda t: t["head.motion_modules.3.temporal_transformer.proj_out.bias"].add_(1)
    )
    verdict = verify_video_depth_anything(copied)
    assert not verdict["ok"]


def drop(name):
    return lambda tensors: tensors.pop(name)


BAD = {
    "a tensor less": (".weights", drop("pretrained.cls_token"), "missing pretrained.cls_token"),
    "a tensor more": (".weights", lambda t: t.update(extra=torch.zeros(1)), "unknown extra"),
    "another shape": (
        ".weights",
        lambda t: t.update({"pretrained.blocks.0.attn.qkv.weight": torch.zeros(144, 40)}),
        "qkv.weight is 144x40, expected 144x48",
    ),
    "no video": (".cases", drop("video"), "has no video"),
    "lengths that differ": (
        ".cases", lambda t: t.update(expected_video_depth=torch.zeros(44, 60, 72)), "is 44x60x72, expected 45x60x72",
    ),
    "a video of floats": (".cases", lambda t: t.update(video=t["video"].float()), "height x width x 3 uint8"),
    "an odd clip": (".cases", lambda t: t.update(clip=torch.zeros(1, 4, 3, 70, 80)), "multiples of 14"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_sentence(copied, name, capsys):
    kind, change, sentence = BAD[name]
    rewrite(f"{copied}{kind}.safetensors", change)
    assert main(["verify", "video-depth-anything", copied]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err and printed.err.count("\n") == 1 and not printed.out


@pytest.mark.parametrize("ending", [".config.json", ".weights.safetensors", ".cases.safetensors"])
@pytest.mark.parametrize("how", ["missing", "cut short"])
def test_missing_and_truncated_files(copied, ending, how, capsys):
    path = Path(copied + ending)
    path.unlink() if how == "missing" else path.write_bytes(path.read_bytes()[:100])
    assert main(["verify", "video-depth-anything", copied]) == 2
    assert f"copy{ending}" in capsys.readouterr().err
