"""Timing contenders against each other: in turns, within one process, so that all of them meet the same machine."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Rounds:
    """What was measured.

    Attributes:
        seconds: of each contender, one number per round.
        peak_bytes: the most memory that the GPU held while it ran, weights included; ``None`` on a CPU.
    """

    seconds: Mapping[str, Sequence[float]]
    peak_bytes: Mapping[str, int | None]

    def median(self, name: str) -> float:
        """Seconds."""
        return median(self.seconds[name])

    def ratio(self, name: str, to: str) -> tuple[float, float, float]:
        """How many times as long ``name`` took as ``to`` in the same round: median, lower and upper quartile."""
        ratios = [theirs / ours for theirs, ours in zip(self.seconds[name], self.seconds[to], strict=True)]
        low, middle, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return middle, low, high


def verdict(ratio: tuple[float, float, float], bar: float) -> str:
    """Whether a ratio reaches its bar: only if its lower quartile does, missed only if its upper one does not."""
    _, low, high = ratio
    return "met" if low >= bar else "MISSED" if high < bar else "unclear"


def take_turns(contenders: Mapping[str, Work], repeats: int, device: torch.device) -> Rounds:
    """Run every contender once to warm up, then all of them ``repeats`` times in turns."""
    peaks = {name: _warm_up(work, device) for name, work in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            seconds[name].append(_seconds(work, device))
    return Rounds(seconds, peaks)


def _warm_up(work: Work, device: torch.device) -> int | None:
    work()
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def _seconds(work: Work, device: torch.device) -> float:
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1000
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
