"""Many environments at once, in a few worker processes: more environments than processes, so that batches are large.

An environment lives in a *slot*. It renders only when asked to look, or while it is filmed.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from numpy.typing import NDArray

from fathom.simulation import find_suite, make_env
from fathom.simulation.suite import Expert
from fathom.simulation.trial import versions
from fathom.workers import Answer, Call, Workers

if TYPE_CHECKING:
    from fathom.simulation.environment import Environment

Array = NDArray[Any]


class Moment(NamedTuple):
    """One slot after a start or some actions.

    Attributes:
        images: by camera, uint8 (H, W, 3); none if not looked at.
        state: proprio, float32 (S,).
        steps: actions carried out just now.
        frames: the first camera's view, uint8 (H, W, 3), after each action (or the first one), if filmed.
    """

    images: dict[str, Array]
    state: Array
    instruction: str
    steps: int
    success: bool
    truncated: bool
    frames: list[Array]


class Environments:
    """``count`` slots over worker processes; use it in a ``with`` block.

    A process whose simulator crashes is replaced; the episodes in its slots are gone.

    Args:
        options: passed to :func:`~fathom.simulation.make_env`.
        processes: default: one per core, never more than slots.
        sim_python: an interpreter that has the simulator, where this one has not.

    Raises:
        UserError: the simulator is not installed, or it cannot draw.
    """

    def __init__(
        self,
        suite: str,
        count: int,
        options: Mapping[str, Any],
        processes: int | None = None,
        sim_python: str | Path | None = None,
    ) -> None:
        if sim_python is None:
            find_suite(suite).prepare()  # workers inherit what is found
        self.count = count
        self._suite = suite
        self._options = dict(options)
        self._workers = Workers(max(1, min(count, processes or os.cpu_count() or 1)), sim_python, revive=True)

    def versions(self) -> dict[str, str]:
        """Of what decides an episode's outcome, as the workers have them; ask before the first episode starts."""
        self._workers.send(0, Call(None, versions, (self._suite,)))
        answer = self._workers.receive()[1]
        if answer.value is None:
            raise RuntimeError(f"a simulator's process does not answer:\n{answer.error}")
        found: dict[str, str] = answer.value
        return found

    def start(self, slot: int, task: str, seed: int, init_state: int | None, *, look: bool, film: bool) -> None:
        """Begin an episode in a slot; the answer comes from :meth:`receive`."""
        self._send(slot, _start, slot, self._suite, task, self._options, seed, init_state, look, film)

    def act(self, slot: int, actions: Array, *, look: bool, film: bool) -> None:
        """Carry out (n, A) actions in a slot, fewer if they end the episode."""
        self._send(slot, _act, slot, actions, look, film)

    def act_expert(self, slot: int, count: int, *, film: bool) -> None:
        """Let the task's scripted expert act ``count`` times in a slot, fewer if that ends the episode."""
        self._send(slot, _act_expert, slot, self._suite, count, film)

    def receive(self) -> Answer:
        """The next answer: its key is the slot, its value a :class:`Moment`.

        One with neither value nor error: the episode in this slot is gone, since its process died over another one.
        """
        return self._workers.receive()[1]

    def _send(self, slot: int, function: Any, *arguments: Any) -> None:
        self._workers.send(slot % len(self._workers), Call(slot, function, arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.close()


# What follows runs in the workers. ------------------------------------------------------------------------------------

_slots: dict[int, "Environment"] = {}
_experts: dict[int, Expert] = {}  # of the episodes that one carries out


@contextmanager
def _discarded_on_failure(slot: int) -> Iterator[None]:
    """What has failed once is not trusted again: the next episode in the slot gets an environment of its own."""
    try:
        yield
    except Exception:
        _experts.pop(slot, None)
        if env := _slots.pop(slot, None):
            with suppress(Exception):
                env.close()
        raise


def _start(
    slot: int, suite: str, task: str, options: dict[str, Any], seed: int, init_state: int | None, look: bool, film: bool
) -> Moment:
    with _discarded_on_failure(slot):
        if slot in _slots and _slots[slot].task != task:
            _slots.pop(slot).close()
        if slot not in _slots:
            _slots[slot] = make_env(suite, task, **options)
        env = _slots[slot]
        env.restart(seed, init_state)
        _experts.pop(slot, None)
        images = env.observe()["images"] if look or film else {}
    frames = [images[env.cameras[0]]] if film else []
    return Moment(images, env.state(), env.instruction, 0, False, False, frames)


def _act(slot: int, actions: Array, look: bool, film: bool) -> Moment | None:
    if slot not in _slots:
        return None  # it was lost with the process before this one
    env, images, frames = _slots[slot], {}, []
    steps, success, truncated = 0, False, False
    with _discarded_on_failure(slot):
        for action in actions:
            _, success, truncated = env.advance(action)
            steps += 1
            if film:
                images = env.observe()["images"]
                frames.append(images[env.cameras[0]])
            if success or truncated:
                break
        if look and not images and not (success or truncated):
            images = env.observe()["images"]
    return Moment(images, env.state(), env.instruction, steps, success, truncated, frames)


def _act_expert(slot: int, suite: str, count: int, film: bool) -> Moment | None:
    if slot not in _slots:
        return None
    if slot not in _experts:
        _experts[slot] = find_suite(suite).expert(_slots[slot])
    expert = _experts[slot]
    steps, frames, moment = 0, [], None
    for _ in range(count):
        with _discarded_on_failure(slot):
            action = expert()
        moment = _act(slot, action[None], look=False, film=film)
        assert moment is not None
        steps += moment.steps
        frames += moment.frames
        if moment.success or moment.truncated:
            break
    assert moment is not None, "count must be positive"
    return moment._replace(steps=steps, frames=frames)
