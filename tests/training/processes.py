"""Processes with a rank each, as ``torchrun`` would start them, for tests.

They are forked from a server that has imported what they need, where nothing has run yet: each costs a second, not ten.
"""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    [
        "pytest", "torch._dynamo", "torch.distributed.checkpoint", "transformers.models.qwen3_vl.modeling_qwen3_vl",
        "fathom.cli.main", "fathom.recipes", "fathom.training.alignment", "fathom.training.policy",
    ]
)  # fmt: skip
sys.path.append(str(Path(__file__).resolve().parents[2]))  # where the processes, too, find ``tests.training``


class Ranks:
    """Processes that meet at one port.

    Args:
        folder: where each writes what it says.
        work: what each does; it returns the exit code. The function must be importable.
        port: by default a free one.
    """

    def __init__(
        self, count: int, folder: Path, work: Callable[..., int | None], *arguments: object, port: int | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        common = {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port or _free_port()), "WORLD_SIZE": str(count),
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self.logs = [folder / f"rank-{rank}.log" for rank in range(count)]
        self.processes = []
        for rank, log in enumerate(self.logs):
            log.write_text("")
            environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = _server.Process(target=_be_rank, args=(environment, log, work, arguments))
            process.start()
            self.processes.append(process)

    def finish(self, timeout: float = 300) -> tuple[list[int | None], list[str]]:
        """The exit codes of all, and what they said; who takes longer (seconds) is killed: its code is -9."""
        deadline = time.monotonic() + timeout
        try:
            for process in self.processes:
                process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for process in self.processes:
                process.kill()
                process.join()
        return [process.exitcode for process in self.processes], [log.read_text() for log in self.logs]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _be_rank(environment: dict[str, str], log: Path, work: Callable[..., int | None], arguments: tuple) -> None:
    os.environ.update(environment)
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    torch.set_num_threads(1)
    sys.exit(work(*arguments))
