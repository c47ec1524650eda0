"""Lean worker processes: each imports only what the functions it is asked to run need, never the parent's main module.

multiprocessing's own ``spawn`` imports the parent's main module in every child: with a policy in the parent that would
be torch and transformers once per environment process, and a script without ``if __name__ == "__main__"`` would break.
"""

import os
import signal
import socket
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, NamedTuple, Self

from fathom.errors import UserError


class Call(NamedTuple):
    """A function, importable by name, and its arguments; ``key`` tells the answers apart."""

    key: Any
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Answer(NamedTuple):
    """What a call returned, or the text of its traceback."""

    key: Any
    value: Any
    error: str | None


class Workers:
    """A fixed set of worker processes, each running its calls one after the other.

    They end with the ``with`` block, and when the parent dies. A :class:`UserError` raised in one is raised here.
    """

    def __init__(self, count: int) -> None:
        # one rendering thread each: the processes share the cores
        environment = {"LP_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} | os.environ
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        self._links: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        for _ in range(count):
            ours, theirs = socket.socketpair()
            program = f"from fathom.workers import serve; serve({theirs.fileno()})"
            self._processes.append(
                subprocess.Popen([sys.executable, "-c", program], pass_fds=[theirs.fileno()], env=environment)
            )
            theirs.close()
            self._links.append(Connection(ours.detach()))

    def __len__(self) -> int:
        return len(self._links)

    def send(self, worker: int, call: Call) -> None:
        """Queue a call on one worker."""
        try:
            self._links[worker].send(call)
        except BrokenPipeError:
            raise self._death(worker) from None

    def receive(self) -> tuple[int, Answer]:
        """Wait for the next answer of any worker: (worker, answer)."""
        link = wait(self._links)[0]
        assert isinstance(link, Connection)
        worker = self._links.index(link)
        try:
            answer = link.recv()
        except (EOFError, ConnectionResetError):
            raise self._death(worker) from None
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _death(self, worker: int) -> RuntimeError:
        code = self._processes[worker].wait()
        return RuntimeError(
            f"worker process {worker} ended unexpectedly (exit code {code}); if memory ran out, use fewer of them"
        )


def serve(descriptor: int) -> None:
    """The worker's side: answer calls until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    with Connection(descriptor) as link:
        while True:
            try:
                call: Call = link.recv()
            except (EOFError, ConnectionResetError):
                return
            try:
                answer: Answer | UserError = Answer(call.key, call.function(*call.arguments), None)
            except UserError as error:
                answer = error
            except Exception:
                answer = Answer(call.key, None, traceback.format_exc())
            try:
                link.send(answer)
            except (BrokenPipeError, ConnectionResetError):
                return
