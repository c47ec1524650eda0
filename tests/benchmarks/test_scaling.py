"""The scaling benchmark runs, and its simulation is its formulas."""

import json

import pytest
import scaling


def test_it_measures_with_and_without_recomputation(capsys):
    options = ["--sizes", "tiny", "--batches", "2", "--repeats", "1", "--precision", "fp32", "--threads", "1"]
    assert scaling.main(options) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["recompute"] for row in rows] == [False, True]
    for row in rows:
        assert 0 < row["mfu"] < 1 and row["memory_gb"] > 0
        assert row["tokens_per_s"] == pytest.approx(row["samples_per_s"] * (16 + 10 + 16 + 1 + 4))


def test_a_size_that_does_not_fit_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(scaling, "memory", lambda _: 24e9)
    assert scaling.main(["--sizes", "3b"]) == 2
    assert "3b is left out: it needs 57 GB" in capsys.readouterr().err


def test_the_simulation_by_hand():
    links = scaling.Links(inside=100.0, between=10.0)
    node = scaling.simulate(80, flops=5.0, devices=8, shard=8, batch=4, parts=2, rate=2.0, links=links)
    assert node.compute_s == 4 * 5 / 2
    assert node.inside_s == 80 * 7 / 8 * (2 * 2 * 2 + 4) / 100 and node.between_s == 0
    assert node.samples_per_s == 8 * 4 / 10 and node.worst_samples_per_s == 8 * 4 / (10 + node.inside_s)
    hybrid = scaling.simulate(80, flops=5.0, devices=16, shard=8, batch=4, parts=1, rate=2.0, links=links)
    assert hybrid.inside_s == 80 * 7 / 8 * (4 + 4) / 100
    assert hybrid.between_s == 2 * 4 * 80 / 8 * (1 / 2) / 10
    spread = scaling.simulate(80, flops=5.0, devices=16, shard=16, batch=4, parts=1, rate=2.0, links=links)
    assert spread.inside_s == 0 and spread.between_s == 80 * 15 / 16 * (4 + 4) / 10
    assert spread.samples_per_s == 16 * 4 / max(10, spread.between_s)


def test_from_8_to_256_on_paper(capsys):
    assert scaling.main(["--simulate"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert {row["devices"] for row in rows} == {8, 16, 32, 64, 128, 256}
    each = [row["samples_per_s"] / row["devices"] for row in rows if row["shard"] == 8]
    assert each[0] == pytest.approx(each[1]) and each[-1] < each[0], "with few samples on each, moving weights decides"
