"""The processes of a run keep an eye on each other, so that one that hangs or fails ends the run and is named."""

import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from fathom.errors import UserError

POLLS = 8
"""How often within the time that is allowed each process looks after the others."""

PATIENCE_S = 30.0
"""For how long a process that fails waits for the first one to say so."""

HUNG, FAILED = 1, 2
"""Exit codes."""

_RESTS, _DONE = "rests", "done"


class Watch:
    """A thread that tells the others how far this process is, and looks how far they are.

    It has its own connection to the store at which the processes met, and goes on while the main thread waits for the
    others, or for nothing at all.

    Args:
        timeout_s: a process that gets no further for so long ends the run.
    """

    def __init__(self, rank: int, size: int, timeout_s: float) -> None:
        self.rank, self.size, self.timeout_s = rank, size, timeout_s
        self._store = _connected(timeout_s)
        self._progress, self._rests = 0, False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="fathom-watch")
        self._thread.start()

    def beat(self) -> None:
        """The main thread got one thing done, beside what it does together with the others, which is counted anyway."""
        self._progress += 1

    def silent(self) -> list[int]:
        """The processes that show no sign of life for a few pauses: what this one failed of may be their death."""

        def signs() -> dict[int, str]:
            return {rank: self._word(rank) for rank in range(self.size) if rank != self.rank}

        before = signs()
        time.sleep(3 * self._pause)
        return [rank for rank, word in signs().items() if word == before[rank] != _DONE]

    def rest(self) -> None:
        """The work that all do in step is done: from now on nobody is behind, but may still die."""
        self._rests = True

    def stop(self) -> None:
        """Nobody is watched any more."""
        self._rests = True
        self._stop.set()
        self._thread.join()
        with suppress(RuntimeError):  # who keeps the store may be gone already
            self._store.set(f"watch/{self.rank}", _DONE)

    def tell(self, sentence: str, dead: Collection[int] = ()) -> None:
        """What this process fails of, for the first one that lives to say; the first of all says it as it ends."""
        self._stop.set()
        self._thread.join()
        speaker = min(rank for rank in range(self.size) if rank not in dead)
        if self.rank == speaker != 0:
            _say(sentence)
        with suppress(RuntimeError):
            self._store.set("watch/failed", sentence)
            if self.rank == speaker:
                self._store.set("watch/heard", "")
                return
            # Torchrun ends the others as soon as this one is gone, and they fail of its silence.
            deadline = time.monotonic() + PATIENCE_S
            while not self._store.check(["watch/heard"]) and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(self._pause)

    @property
    def _pause(self) -> float:
        return min(1.0, self.timeout_s / POLLS)

    def _look(self) -> None:
        try:
            self._look_around()
        except RuntimeError:
            if not self._stop.is_set() and not self._rests:
                _say(f"rank {self.rank} has lost the others: the run ends; run it again to go on")
                os._exit(HUNG)

    def _look_around(self) -> None:
        last: dict[tuple[int, str], tuple[str, float]] = {}
        alive, heard_at = 0, None
        while not self._stop.wait(self._pause):
            alive += 1
            progress = self._progress + _collectives()
            self._store.set(f"watch/{self.rank}", f"{_RESTS if self._rests else progress} {alive}")
            if self._store.check(["watch/failed"]):
                # This one may be about to say the same: what is wrong with the settings is wrong everywhere.
                heard_at = heard_at or time.monotonic()
                waited = time.monotonic() - heard_at
                if self.rank == 0 and waited > self._pause:
                    _say(self._store.get("watch/failed").decode())
                    self._store.set("watch/heard", "")
                    os._exit(FAILED)
                if self.rank and (self._store.check(["watch/heard"]) or waited > PATIENCE_S):
                    os._exit(FAILED)
            elif stuck := self._stuck(last):
                _say(
                    f"{_ranks(stuck)} of {self.size} got no further for {self.timeout_s:g} s "
                    "(training.rank_timeout_s): the run ends; run it again to go on"
                )
                os._exit(HUNG)

    def _stuck(self, last: dict[tuple[int, str], tuple[str, float]]) -> list[int]:
        """Who is stuck, if it is for this process to say: whose threads are silent or, if none is, who is behind."""
        words = [self._word(rank) for rank in range(self.size)]
        if any(word.split()[0] in (_DONE, _RESTS) for word in words):
            return []
        progress, now = [int(word.split()[0]) for word in words], time.monotonic()
        for rank, word in enumerate(words):
            for kind, value in zip(("progress", "alive"), word.split(), strict=True):
                if last.get((rank, kind), ("", 0.0))[0] != value:
                    last[rank, kind] = value, now

        def unmoved(kind: str) -> list[int]:
            return [rank for rank in range(self.size) if now - last[rank, kind][1] > self.timeout_s]

        silent = unmoved("alive")
        speaker = min(rank for rank in range(self.size) if rank not in silent)
        if self.rank != speaker:
            return []
        if silent:
            return silent
        if len(unmoved("progress")) < self.size or not any(progress):  # 0: still preparing, each for itself
            return []
        return [rank for rank in range(self.size) if progress[rank] == min(progress)]

    def _word(self, rank: int) -> str:
        key = f"watch/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else "0 0"


@contextmanager
def watched(rank: int, size: int, timeout_s: float) -> Iterator[Watch]:
    """A watch for as long as this lasts; what this process fails of is told by the first one."""
    watch = Watch(rank, size, timeout_s)
    try:
        yield watch
    except UserError as error:
        watch.tell(str(error))
        raise
    except Exception as error:
        # Torchrun sends it as soon as another process is gone, and so before this one could say which.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            dead = watch.silent()
        except RuntimeError:  # who keeps the store is dead itself: without torchrun the first one does
            dead = [0]
        if not dead:
            watch.tell(f"rank {rank} failed: {error!r}")
            raise
        sentence = f"{_ranks(dead)} of {size} died: the run ends; run it again to go on"
        watch.tell(sentence, dead)
        raise UserError(sentence) from error
    except BaseException:
        watch.stop()
        raise
    watch.stop()


def end_with(sentence: str) -> None:
    """End this process, whose main thread waits for something that will not come."""
    _say(sentence)
    os._exit(FAILED)


def _collectives() -> int:
    """How much this process has begun to do together with others: one that hangs has begun less than those who wait.

    Torch counts it for each group of processes (all of them, those who share weights, …), but does not sum it up.
    """
    groups: Iterable[Any] = dist.distributed_c10d._world.pg_map
    return sum(group._get_sequence_number_for_group() for group in groups)


def _ranks(ranks: list[int]) -> str:
    return " and ".join(f"rank {rank}" for rank in ranks)


def _connected(timeout_s: float) -> dist.Store:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's own store outlives its processes
    store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=timeout_s))
    return dist.PrefixStore(f"fathom-{attempt}", store)


def _say(sentence: str) -> None:
    print(f"fathom: {sentence}", file=sys.stderr, flush=True)
