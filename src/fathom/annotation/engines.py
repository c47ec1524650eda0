"""Where the work of an annotation is done: in processes of this machine, or on a Ray cluster."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fathom.errors import UserError
from fathom.workers import Call, Workers


def run_here(
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    episodes: Sequence[int],
    processes: int,
    devices: Sequence[str],
) -> Iterator[int]:
    """Call ``function(*arguments, device, episode)`` for every episode; yields each as it is done.

    Raises:
        UserError: a call raised one.
        RuntimeError: a call raised anything else; the traceback is in the message.
    """
    waiting = deque(episodes)
    if not waiting:
        return
    with Workers(min(processes, len(waiting))) as workers:

        def give(worker: int) -> None:
            episode = waiting.popleft()
            device = devices[worker % len(devices)]  # a worker keeps its device, and so its estimator
            workers.send(worker, Call(episode, function, (*arguments, device, episode)))

        for worker in range(len(workers)):
            give(worker)
        for _ in episodes:
            worker, answer = workers.receive()
            if answer.error:
                raise RuntimeError(f"episode {answer.key}: {answer.error}")
            if waiting:
                give(worker)
            yield answer.key


def run_on_ray(
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    episodes: Sequence[int],
    processes: int,
    devices: Sequence[str],
) -> Iterator[int]:
    """The same on the workers of a Ray cluster: that of ``RAY_ADDRESS``, or one of this machine alone.

    Raises:
        UserError: Ray is not installed, or a call raised one.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'fathom-vla[ray]'") from None
    if not ray.is_initialized():
        local: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": processes}
        ray.init(include_dashboard=False, log_to_driver=False, **local)
    gpus = 1 if any(device.startswith("cuda") for device in devices) else 0
    # Ray shows a worker only the GPU that it gave it.
    device = "cuda" if gpus else "cpu"
    remote = ray.remote(num_cpus=1, num_gpus=gpus, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})(_told)
    running = {remote.remote(function, (*arguments, device, episode)): episode for episode in episodes}
    for done in _as_completed(ray, list(running)):
        if refusal := ray.get(done):
            raise UserError(refusal)
        yield running[done]


def _told(function: Callable[..., None], arguments: tuple[Any, ...]) -> str | None:
    """A user's mistake as a value: Ray would wrap the exception."""
    try:
        function(*arguments)
    except UserError as error:
        return str(error)
    return None


def _as_completed(ray: Any, waiting: Iterable[Any]) -> Iterator[Any]:
    waiting = list(waiting)
    while waiting:
        (done, *_), waiting = ray.wait(waiting, num_returns=1)
        yield done
