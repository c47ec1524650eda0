"""The benchmarks run, agree before they time, and say what they measured."""

import json

import inference
import pytest
import torch
import training_step
from timing import Rounds, take_turns, verdict

OPTIONS = ["--size", "tiny", "--device", "cpu", "--repeats", "2", "--threads", "1"]


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("more", [[], ["--no-depth", "--cameras", "2"], ["--precision", "bf16"], ["--softcap", "50"]])
def test_inference(more, capsys):
    assert inference.main([*OPTIONS, *more]) == 0
    result = last_line(capsys)
    assert set(result["ms"]) == {"fathom", "open-pi-zero", "recompute"}
    assert set(result["difference"]) == {"open-pi-zero", "recompute"}
    assert max(result["difference"].values()) <= (0.1 if "bf16" in more else 1e-4)
    assert 0 < sum(result["floor_ms"].values()) < result["ms"]["fathom"]
    middle, low, high = result["peer_over"]["fathom"]
    assert 0 < low <= middle <= high


@pytest.mark.parametrize("more", [[], ["--no-depth", "--cameras", "2"], ["--precision", "bf16"]])
def test_training_step(more, capsys):
    assert training_step.main([*OPTIONS, *more]) == 0
    result = last_line(capsys)
    assert set(result["samples_per_s"]) == {"fathom", "eager, one pass"}
    assert result["loss"]["fathom"] == pytest.approx(result["loss"]["eager, one pass"], rel=0.05)
    assert 0 < result["mfu"]["fathom"] < 1


@pytest.mark.parametrize(
    ("script", "peer"),
    [(inference, "peers.recompute.Recompute.chunk"), (training_step, "peers.open_pi_zero.OpenPiZero.loss")],
)
def test_contenders_that_differ_are_not_compared(script, peer, monkeypatch, capsys):
    monkeypatch.setattr(peer, lambda *_: torch.ones(()))
    assert script.main(OPTIONS) == 1
    printed = capsys.readouterr()
    assert "differ" in printed.err and not printed.out


def test_3b_is_not_trained_on_a_small_machine(monkeypatch, capsys):
    monkeypatch.setattr(training_step, "memory", lambda _: 24e9)
    assert training_step.main(["--size", "3b", "--device", "cpu"]) == 2
    assert "3b needs 57 GB" in capsys.readouterr().err


def test_3b_in_bf16_is_what_fits_for_inference(monkeypatch, capsys):
    monkeypatch.setattr(inference, "memory", lambda _: 12e9)
    assert inference.main(["--size", "3b", "--device", "cpu", "--precision", "fp32"]) == 2
    assert "take bf16" in capsys.readouterr().err


def test_contenders_take_turns():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in "ABC"}
    rounds = take_turns(contenders, 2, torch.device("cpu"))
    assert "".join(calls) == "ABC" * 3  # once to warm up
    assert {name: len(seconds) for name, seconds in rounds.seconds.items()} == {"A": 2, "B": 2, "C": 2}


def test_ratios_are_taken_within_a_round():
    """A round that disturbs both contenders alike does not move their ratio."""
    rounds = Rounds({"ours": [1.0, 10.0, 1.0, 1.0, 1.0], "peer": [2.0, 20.0, 2.0, 3.0, 1.0]}, {})
    assert rounds.median("ours") == 1.0
    assert rounds.ratio("peer", "ours") == (2.0, 2.0, 2.0)
    assert rounds.ratio("ours", "ours") == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("ratio", "expected"), [((1.6, 1.5, 1.7), "met"), ((1.6, 1.4, 1.7), "unclear"), ((1.2, 1.1, 1.4), "MISSED")]
)
def test_a_bar_is_met_beyond_the_spread(ratio, expected):
    assert verdict(ratio, 1.5) == expected


def test_onednn_is_for_all_contenders_and_for_one_run(capsys):
    for more, expected in (["--onednn"], "bf16"), ([], "none"):
        assert inference.main([*OPTIONS, *more]) == 0
        assert torch.backends.mkldnn.matmul.fp32_precision == expected
