"""The annotation benchmark agrees before it times."""

import json

import pytest

import annotation

OPTIONS = ["--size", "tiny", "--input-size", "70", "--shape", "28", "42", "--device", "cpu", "--repeats", "2"]


def test_annotation(capsys):
    assert annotation.main([*OPTIONS, "--episodes", "2"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result["seconds"]) == {"fathom", "official", "official, sdpa"}
    assert max(result["difference"].values()) < 1e-4
    middle, low, high = result["peer_over_fathom"]["official"]
    assert 0 < low <= middle <= high


def test_depths_that_differ_are_not_compared(monkeypatch, capsys):
    peer = annotation.OfficialVideoDepthAnything
    infer = peer.infer
    monkeypatch.setattr(peer, "infer", lambda self, frames: infer(self, frames)[::-1])
    assert annotation.main(OPTIONS) == 1
    printed = capsys.readouterr()
    assert "differ" in printed.err and not printed.out


@pytest.mark.parametrize("metric", [False, True])
def test_the_pictures_and_weights_tell_mistakes_apart(metric):
    """With these the windows' depths differ, so that joining them wrongly would be seen."""
    model = annotation.random_model(annotation.TINY)
    frames = annotation.moving_pictures(40, 28, 42, seed=0)
    depth = annotation.OfficialVideoDepthAnything(model, 70, metric=metric).infer(frames)
    other = annotation.OfficialVideoDepthAnything(model, 70, metric=not metric).infer(frames)
    assert abs(depth - other).max() > 1e-3 * (depth.max() - depth.min())
