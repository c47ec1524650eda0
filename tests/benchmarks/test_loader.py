"""The share of a training that waits for data, by a clock that only moves when told."""

from types import SimpleNamespace

import loader
import pytest


@pytest.mark.parametrize(("step", "batch", "share"), [(0.3, 0.1, 0.25), (0.3, 0.0, 0.0), (0.0, 0.1, 1.0)])
def test_the_share_of_waiting(step, batch, share, monkeypatch):
    now = [0.0]

    def passes(seconds):
        now[0] += seconds

    def batches():
        while True:
            passes(batch)
            yield None

    monkeypatch.setattr(loader, "time", SimpleNamespace(perf_counter=lambda: now[0], sleep=passes))
    assert loader.wait_share(batches(), step, steps=5) == pytest.approx(share)
