"""Closed-loop roll-outs: many episodes side by side, one batched policy call per round.

An episode's outcome depends on its task, its seeds and the policy alone, not on which others run beside it: the noise
of each of its chunks is drawn from a generator of its own. (Arithmetic may round differently in another batch size.)

An episode whose simulator crashes is tried once more, from its start; then it counts as a failure, with the reason.
"""

import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fathom.data.batch import Observation
from fathom.errors import UserError
from fathom.simulation.vector import Environments, Moment

_LOSSES = 5
"""As often an episode may be lost with its process, by no fault of its own, before it is given up."""


class Actor(Protocol):
    """Whatever can be rolled out."""

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(horizon, width) of the noise that one chunk starts from."""

    @property
    def action_width(self) -> int:
        """Components of an action."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """The views that it wants to see; none if it does not look."""

    def sample_actions(
        self, observation: Observation, noise: Float[Tensor, "batch horizon action"] | None = None
    ) -> Float[Tensor, "batch horizon action"]:
        """An action chunk per robot, in the robot's own units."""


class RandomPolicy:
    """Uniform actions in [-1, 1]: what success costs nothing."""

    cameras = ()

    def __init__(self, action_width: int) -> None:
        self.action_width = action_width
        self.noise_shape = (16, action_width)

    def sample_actions(
        self, observation: Observation, noise: Float[Tensor, "batch horizon action"] | None = None
    ) -> Float[Tensor, "batch horizon action"]:
        """The noise itself, through the normal distribution function."""
        if noise is None:
            noise = torch.randn(len(observation), *self.noise_shape)
        return torch.erf(noise / 2**0.5)


class ScriptedPolicy:
    """Stands for the scripted expert of each task, which acts inside the environment's process."""


@dataclass(frozen=True)
class Episode:
    """One episode to roll out.

    Attributes:
        seed: of the layout.
        index: its number within its task (``init_state`` in result files).
        recorded: whether it starts from the benchmark's recorded initial state of that number.
    """

    task: str
    seed: int
    index: int
    recorded: bool = False


@dataclass
class Outcome:
    """How an episode went.

    Attributes:
        steps: actions carried out.
        wall_s: from its start to its end, in seconds, shared with the episodes beside it.
        error: why, if it broke off: a traceback, or a sentence.
        frames: uint8 (H, W, 3), the first view and one per action, if filmed.
    """

    episode: Episode
    success: bool = False
    steps: int = 0
    wall_s: float = 0.0
    error: str | None = None
    frames: list[NDArray[Any]] = field(default_factory=list)


def chunk_noise(shape: tuple[int, int], seed: int, episode: Episode, chunk: int) -> Float[Tensor, "horizon action"]:
    """Standard normal noise that only (seed, task, episode, chunk number) decide."""
    key = [seed, zlib.crc32(episode.task.encode()), episode.index, chunk]
    return torch.from_numpy(np.random.default_rng(key).standard_normal(shape, dtype=np.float32))


def rollout(
    policy: Actor | ScriptedPolicy,
    episodes: Sequence[Episode],
    environments: Environments,
    *,
    execute: int = 4,
    seed: int = 0,
    device: torch.device | str = "cpu",
    film: Callable[[Episode], bool] = lambda _: False,
) -> Iterator[Outcome]:
    """Run episodes to success or their time limit; outcomes come in the order in which they end.

    Args:
        execute: actions of each chunk that are carried out before the policy looks again, at most the horizon.
        seed: of the policy's noise.
        film: which episodes keep their frames.
    """
    waiting = list(episodes)
    running: dict[int, _Running] = {}
    free = list(range(environments.count))
    task_of_slot: dict[int, str] = {}
    crashed: set[tuple[str, int]] = set()
    losses: Counter[tuple[str, int]] = Counter()
    looks = not isinstance(policy, ScriptedPolicy) and bool(policy.cameras)
    while waiting or running:
        sent = _act(policy, running, environments, execute, seed, device, looks)
        for slot in sorted(free):
            if not waiting:
                break
            episode = _next_episode(waiting, task_of_slot.get(slot), task_of_slot)
            task_of_slot[slot] = episode.task
            running[slot] = _Running(Outcome(episode), film(episode))
            free.remove(slot)
            recorded = episode.index if episode.recorded else None
            environments.start(slot, episode.task, episode.seed, recorded, look=looks, film=running[slot].film)
            sent += 1
        for _ in range(sent):
            answer = environments.receive()
            running[answer.key].take(answer.value, answer.error)
        for slot in [slot for slot, now in running.items() if now.ended]:
            free.append(slot)
            now = running.pop(slot)
            episode = now.outcome.episode
            name = (episode.task, episode.index)
            losses[name] += now.lost
            if now.lost and losses[name] > _LOSSES:
                now.outcome.error = f"the process it ran in died {losses[name]} times"
                yield now.outcome
            elif now.lost or (now.crashed and name not in crashed):
                waiting.insert(0, episode)
                if now.crashed:
                    crashed.add(name)
            else:
                yield now.outcome


@dataclass
class _Running:
    """An episode under way in a slot.

    Attributes:
        crashed: its simulator failed.
        lost: the process in which it ran failed over another episode.
    """

    outcome: Outcome
    film: bool
    chunk: int = 0
    moment: Moment | None = None
    ended: bool = False
    crashed: bool = False
    lost: bool = False
    began: float = field(default_factory=time.perf_counter)

    def take(self, moment: Moment | None, error: str | None) -> None:
        outcome = self.outcome
        outcome.error = error
        self.moment = moment
        if moment is not None:
            outcome.steps += moment.steps
            outcome.success = moment.success
            outcome.frames += moment.frames
        self.crashed = error is not None
        self.lost = moment is None and error is None
        self.ended = moment is None or moment.success or moment.truncated
        outcome.wall_s = time.perf_counter() - self.began

    def refuse(self, reason: str) -> None:
        """The episode ends here, by no fault of the simulator."""
        self.outcome.error = reason
        self.ended = True


def _act(
    policy: Actor | ScriptedPolicy,
    running: dict[int, _Running],
    environments: Environments,
    execute: int,
    seed: int,
    device: torch.device | str,
    looks: bool,
) -> int:
    """Send every running episode its next actions: to how many they went."""
    slots = sorted(running)
    if isinstance(policy, ScriptedPolicy):
        for slot in slots:
            environments.act_expert(slot, execute, film=running[slot].film)
        return len(slots)
    if not slots:
        return 0
    noise = torch.stack(
        [chunk_noise(policy.noise_shape, seed, running[s].outcome.episode, running[s].chunk) for s in slots]
    )
    moments = [moment for s in slots if (moment := running[s].moment) is not None]
    observation = _observe(moments, policy.cameras).to(device)
    with torch.inference_mode():
        actions = policy.sample_actions(observation, noise.to(device)).float().cpu().numpy()
    if actions.shape[::2] != (len(slots), policy.action_width):
        raise UserError(
            f"the policy's actions for {len(slots)} robots have the shape {actions.shape}: expected "
            f"({len(slots)}, horizon, {policy.action_width})."
        )
    sent = 0
    for slot, chunk in zip(slots, actions, strict=True):
        now = running[slot]
        now.chunk += 1
        if np.isfinite(chunk).all():
            environments.act(slot, chunk[:execute], look=looks, film=now.film)
            sent += 1
        else:
            now.refuse(f"the policy's actions are not finite numbers after {now.outcome.steps} steps")
    return sent


def _observe(moments: Sequence[Moment], cameras: Sequence[str]) -> Observation:
    """The batch that a policy sees through these cameras. (Filmed episodes have pictures that nobody asked for.)"""
    pictures = {
        camera: torch.from_numpy(np.stack([moment.images[camera] for moment in moments])).permute(0, 3, 1, 2)
        for camera in cameras
    }
    state = torch.from_numpy(np.stack([moment.state for moment in moments]))
    return Observation(images=pictures, state=state, instruction=[moment.instruction for moment in moments])


def _next_episode(waiting: list[Episode], last_task: str | None, task_of_slot: dict[int, str]) -> Episode:
    """Take an episode of the slot's own task (its environment is already built), else of the least served task."""
    left = Counter(episode.task for episode in waiting)
    if last_task in left:
        task = last_task
    else:
        served = Counter(task_of_slot.values())
        task = max(left, key=lambda name: left[name] / (1 + served[name]))
    return waiting.pop(next(i for i, episode in enumerate(waiting) if episode.task == task))
