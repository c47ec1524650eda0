"""Lean worker processes: each imports only what the functions it is asked to run need, never the parent's main module.

multiprocessing's own ``spawn`` imports the parent's main module in every child: with a policy in the parent that would
be torch and transformers once per environment process, and a script without ``if __name__ == "__main__"`` would break.

A worker may also be another Python, with packages of its own whose versions this one could not have: it sees Fathom and
nothing else of this one. Arrays cross as bytes with a type and a shape, because NumPy 1 cannot read NumPy 2's pickles.
"""

import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from fathom.errors import UserError


class Call(NamedTuple):
    """A function, importable by name, and its arguments; ``key`` tells the answers apart."""

    key: Any
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Answer(NamedTuple):
    """What a call returned, or the text of its traceback.

    A call with neither was lost: its process died over another call before this one's turn came.
    """

    key: Any
    value: Any
    error: str | None


class Workers:
    """A fixed set of worker processes, each running its calls one after the other.

    They end with the ``with`` block, and when the parent dies. A :class:`UserError` raised in one is raised here.

    Args:
        python: the interpreter that they run; default this one.
        revive: replace a process that dies. The call that it died over is answered with an error, the ones behind it
            are lost. Otherwise :meth:`receive` raises a RuntimeError.

    Raises:
        UserError: that interpreter cannot run a worker.
    """

    def __init__(self, count: int, python: str | Path | None = None, *, revive: bool = False) -> None:
        # one rendering thread each: the processes share the cores
        self._environment = {"LP_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} | os.environ
        self._python = str(python or sys.executable)
        self._fathom_alone: tempfile.TemporaryDirectory[str] | None = None
        if python is None:
            self._environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        else:
            self._fathom_alone = tempfile.TemporaryDirectory(prefix="fathom-")
            Path(self._fathom_alone.name, "fathom").symlink_to(Path(__file__).parent)
            self._environment["PYTHONPATH"] = self._fathom_alone.name
            _check(self._python, self._environment)
        self._revive = revive
        self._links: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._unanswered: list[deque[Any]] = []
        self._arrived: deque[tuple[int, Answer | UserError]] = deque()
        for _ in range(count):
            link, process = self._start()
            self._links.append(link)
            self._processes.append(process)
            self._unanswered.append(deque())

    def __len__(self) -> int:
        return len(self._links)

    def send(self, worker: int, call: Call) -> None:
        """Queue a call on one worker."""
        try:
            self._links[worker].send_bytes(_dumps(call))
        except (BrokenPipeError, ConnectionResetError):
            self._bury(worker)
            self._links[worker].send_bytes(_dumps(call))
        self._unanswered[worker].append(call.key)

    def receive(self) -> tuple[int, Answer]:
        """Wait for the next answer of any worker: (worker, answer)."""
        while not self._arrived:
            link = wait(self._links)[0]
            assert isinstance(link, Connection)
            worker = self._links.index(link)
            try:
                self._take(worker)
            except (EOFError, OSError):  # OSError: it died in the middle of an answer
                self._bury(worker)
        worker, answer = self._arrived.popleft()
        if isinstance(answer, UserError):
            raise answer
        return worker, answer

    def map(self, calls: Iterable[Call]) -> Iterator[Answer]:
        """Run calls on whichever worker is free; answers come as they are ready, in any order."""
        waiting = deque(range(len(self)))
        running = 0
        for call in calls:
            if not waiting:
                worker, answer = self.receive()
                waiting.append(worker)
                running -= 1
                yield answer
            self.send(waiting.popleft(), call)
            running += 1
        for _ in range(running):
            yield self.receive()[1]

    def close(self) -> None:
        """End the processes; a call that is still running is given up."""
        for link in self._links:
            link.close()
        for process in self._processes:
            process.terminate()
            process.wait()
        if self._fathom_alone is not None:
            self._fathom_alone.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> tuple[Connection, "subprocess.Popen[bytes]"]:
        ours, theirs = socket.socketpair()
        program = f"from fathom.workers import serve; serve({theirs.fileno()})"
        process = subprocess.Popen(
            [self._python, "-c", program], pass_fds=[theirs.fileno()], env=self._environment, stdin=subprocess.DEVNULL
        )
        theirs.close()
        return Connection(ours.detach()), process

    def _take(self, worker: int) -> None:
        """Read one answer.

        Raises:
            EOFError, OSError: the worker is dead.
        """
        answer = pickle.loads(self._links[worker].recv_bytes())
        self._unanswered[worker].popleft()
        self._arrived.append((worker, answer))

    def _bury(self, worker: int) -> None:
        """A process is dead: raise, or replace it and answer what it left unanswered."""
        with suppress(EOFError, OSError):
            while True:  # what it still said before
                self._take(worker)
        self._links[worker].close()
        code = self._processes[worker].wait()
        reason = f"worker process {worker} ended unexpectedly (exit code {code}); if memory ran out, use fewer of them"
        if not self._revive:
            raise RuntimeError(reason)
        for place, key in enumerate(self._unanswered[worker]):
            self._arrived.append((worker, Answer(key, None, None if place else reason)))
        self._unanswered[worker].clear()
        self._links[worker], self._processes[worker] = self._start()


def _check(python: str, environment: dict[str, str]) -> None:
    """Raise a UserError if this interpreter cannot be a worker."""
    try:
        attempt = subprocess.run(
            [python, "-c", "import fathom.workers"], env=environment, capture_output=True, text=True, timeout=120
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{python} cannot be run as a Python interpreter: {error}") from None
    if attempt.returncode:
        reason = (attempt.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"{python} cannot run simulators for Fathom, which takes Python 3.11 or later with NumPy: {reason}"
        )


class _Pickler(pickle.Pickler):
    """Writes arrays so that any NumPy can read them."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
            return _array, (value.tobytes(), value.dtype.str, value.shape, isinstance(value, np.generic))
        return NotImplemented


def _dumps(value: Any) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream).dump(value)
    return stream.getvalue()


def _array(content: bytes, kind: str, shape: tuple[int, ...], scalar: bool) -> Any:
    array = np.frombuffer(bytearray(content), kind).reshape(shape)
    return array[()] if scalar else array


def serve(descriptor: int) -> None:
    """The worker's side: answer calls until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    with Connection(descriptor) as link:
        while True:
            try:
                call: Call = pickle.loads(link.recv_bytes())
            except (EOFError, ConnectionResetError):
                return
            try:
                answer: Answer | UserError = Answer(call.key, call.function(*call.arguments), None)
            except UserError as error:
                answer = error
            except Exception:
                answer = Answer(call.key, None, traceback.format_exc())
            try:
                link.send_bytes(_dumps(answer))
            except (BrokenPipeError, ConnectionResetError):
                return
