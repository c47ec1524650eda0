"""Many environments at once, in a few worker processes: more environments than processes, so that batches are large.

An environment lives in a *slot*. It renders only when asked to look, or while it is filmed.
"""

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fathom.simulation import make_env, prepare_simulator
from fathom.workers import Answer, Call, Workers

if TYPE_CHECKING:
    from fathom.simulation.metaworld import MetaWorldEnv

Array = NDArray[Any]


class Moment(NamedTuple):
    """One slot after a start or some actions.

    Attributes:
        image: uint8 (H, W, 3), if looked at.
        state: proprio, float32 (S,).
        steps: actions carried out just now.
        frames: one uint8 (H, W, 3) per action (or the first view), if filmed.
    """

    image: Array | None
    state: Array
    instruction: str
    steps: int
    success: bool
    truncated: bool
    frames: list[Array]


class Environments:
    """``count`` slots over worker processes; use it in a ``with`` block.

    Args:
        options: passed to :func:`~fathom.simulation.make_env`.
        processes: default: one per core, never more than slots.

    Raises:
        UserError: the simulator is not installed, or there is no OpenGL to draw with.
    """

    def __init__(self, suite: str, count: int, options: Mapping[str, Any], processes: int | None = None) -> None:
        prepare_simulator()
        self.count = count
        self._suite = suite
        self._options = dict(options)
        self._workers = Workers(max(1, min(count, processes or os.cpu_count() or 1)))

    def start(self, slot: int, task: str, seed: int, *, look: bool, film: bool) -> None:
        """Begin an episode in a slot; the answer comes from :meth:`receive`."""
        self._send(slot, _start, slot, self._suite, task, self._options, seed, look, film)

    def act(self, slot: int, actions: Array, *, look: bool, film: bool) -> None:
        """Carry out (n, 4) actions in a slot, fewer if they end the episode."""
        self._send(slot, _act, slot, actions, look, film)

    def act_expert(self, slot: int, count: int, *, film: bool) -> None:
        """Let the task's scripted expert act ``count`` times in a slot, fewer if that ends the episode."""
        self._send(slot, _act_expert, slot, count, film)

    def receive(self) -> Answer:
        """The next answer: its key is the slot, its value a :class:`Moment`."""
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

_slots: dict[int, "MetaWorldEnv"] = {}


def _start(slot: int, suite: str, task: str, options: dict[str, Any], seed: int, look: bool, film: bool) -> Moment:
    env = _slots.get(slot)
    if env is None or env.task != task:
        if env is not None:
            env.close()
        env = _slots[slot] = make_env(suite, task, **options)
    env.restart(seed)
    image = _image(env) if look or film else None
    return Moment(image, env.state(), env.instruction, 0, False, False, [image] if film and image is not None else [])


def _act(slot: int, actions: Array, look: bool, film: bool) -> Moment:
    env, image, frames = _slots[slot], None, []
    steps, success, truncated = 0, False, False
    for action in actions:
        _, success, truncated = env.advance(action)
        steps += 1
        if film:
            image = _image(env)
            frames.append(image)
        if success or truncated:
            break
    if look and image is None and not (success or truncated):
        image = _image(env)
    return Moment(image, env.state(), env.instruction, steps, success, truncated, frames)


def _act_expert(slot: int, count: int, film: bool) -> Moment:
    from fathom.simulation.experts import ScriptedExpert

    env, expert = _slots[slot], ScriptedExpert(_slots[slot].task)
    steps, frames, moment = 0, [], None
    for _ in range(count):
        moment = _act(slot, expert(env)[None], look=False, film=film)
        steps += moment.steps
        frames += moment.frames
        if moment.success or moment.truncated:
            break
    assert moment is not None, "count must be positive"
    return moment._replace(steps=steps, frames=frames)


def _image(env: "MetaWorldEnv") -> Array:
    return np.asarray(env.observe()["images"]["main"])
