"""From a scene to its questions: each function asks all of one kind that have a clear answer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np

from fathom.vlm.questions.names import plural
from fathom.vlm.questions.scene import Scene, Thing
from fathom.vlm.questions.wording import (
    CAMERA_DISTANCE,
    COUNT,
    COUNT_ALL,
    EITHER,
    HEIGHT,
    NEARER,
    OBJECT_DISTANCE,
    SIDES,
    WHERE,
    WHETHER,
    WIDTH,
    Wording,
    joined,
    spoken,
)

CLEAR = 1.1
"""Two distances are told apart from this ratio on."""

Option = TypeVar("Option")


@dataclass(frozen=True)
class Question:
    """A question about one frame, and the true answer.

    Attributes:
        kind: what it asks, one of :data:`KINDS`.
        type: MSMU's name of such questions; it says how an answer is scored.
        objects: the objects it names.
        values: what the answer rests on, before it was rounded. Metres: a distance or size; the two objects' distances
            (``nearer``); the first object's place as seen from the second, to the right, down and away from the camera
            (``relative_position``). Or a count.
    """

    kind: str
    type: str
    question: str
    answer: str
    objects: tuple[str, ...]
    values: tuple[float, ...]


def make_questions(scene: Scene, per_frame: int, rng: np.random.Generator) -> list[Question]:
    """At most ``per_frame`` questions, of as many kinds as the scene allows, none twice.

    What is ambiguous is not asked: names that could mean another object too, distances that hardly differ, sides of
    objects that overlap on that axis, sizes of objects that are partly hidden.
    """
    by_kind = {kind: list(ask(scene, rng)) for kind, (_, ask) in KINDS.items()}
    chosen: list[Question] = []
    while any(by_kind.values()):
        for kind in rng.permutation(list(KINDS)):
            rest = by_kind[str(kind)]
            if len(chosen) == per_frame:
                return chosen
            if rest:
                chosen.append(rest.pop(int(rng.integers(len(rest)))))
    return chosen


def _camera_distance(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for thing in scene.things:
        yield _length("camera_distance", CAMERA_DISTANCE, rng, thing.extent.distance, thing)


def _object_distance(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for one, other in _pairs(scene, rng):
        apart = float(np.linalg.norm(one.extent.middle - other.extent.middle))
        # one in, on or under the other: the middles of what is seen of them say little
        if apart > max(one.extent.radius, other.extent.radius):
            yield _length("object_distance", OBJECT_DISTANCE, rng, apart, one, other)


def _size(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for thing in scene.things:
        for wordings, metres in ((HEIGHT, thing.extent.height), (WIDTH, thing.extent.width)):
            if metres is not None:
                yield _length("size", wordings, rng, metres, thing)


def _nearer(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for one, other in _pairs(scene, rng):
        near, far = sorted((one, other), key=lambda thing: thing.extent.distance)
        if far.extent.distance < CLEAR * near.extent.distance or far.extent.low[2] < near.extent.low[2]:
            continue
        question, answer = _one_of(NEARER, rng)
        words = {"a": one.name, "b": other.name, "near": near.name, "far": far.name}
        distances = (one.extent.distance, other.extent.distance)
        yield _question("nearer", question.format(**words), answer.format(**words), (one, other), distances)


def _relative_position(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for one, other in _pairs(scene, rng):
        clear = {axis: side for axis in range(3) if (side := _side(one, other, axis)) is not None}
        if not clear:
            continue
        offset = tuple((one.extent.middle - other.extent.middle).tolist())
        for axis, side in clear.items():
            question, answer = _one_axis(one, other, axis, side, rng)
            yield _question("relative_position", question, answer, (one, other), offset)
        words = {"a": one.name, "b": other.name}
        sides = joined([SIDES[axis][side] for axis, side in clear.items()])
        answer = f"The {one.name} is {sides} the {other.name}."
        yield _question("relative_position", _one_of(WHERE, rng).format(**words), answer, (one, other), offset)


def _count(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    counted = [(COUNT, name, n) for name, n in scene.counts.items()]
    if scene.total is not None:
        counted.append((COUNT_ALL, "object", scene.total))
    for wordings, name, n in counted:
        words = {"plural": plural(name), "noun": name if n == 1 else plural(name), "n": n}
        words["are"] = "is" if n == 1 else "are"
        question, answer = (part.format(**words) for part in _one_of(wordings, rng))
        objects = (name,) if wordings is COUNT else ()
        yield Question("count", KINDS["count"][0], question, answer, objects, (float(n),))


Asking = Callable[[Scene, np.random.Generator], Iterator[Question]]
KINDS: dict[str, tuple[str, Asking]] = {
    "camera_distance": ("absolute_distance", _camera_distance),
    "object_distance": ("absolute_distance", _object_distance),
    "relative_position": ("relative_position", _relative_position),
    "nearer": ("relative_position", _nearer),
    "size": ("scale_estimation", _size),
    "count": ("count", _count),
}
"""Kinds of questions, each with MSMU's type and what asks them."""


def _one_axis(one: Thing, other: Thing, axis: int, side: int, rng: np.random.Generator) -> tuple[str, str]:
    """Which of two sides an object is on, or whether it is on one."""
    true, asked = SIDES[axis][side], SIDES[axis][int(rng.integers(2))]
    says = f"{true} the {other.name}"
    if rng.integers(2):
        first, second = (SIDES[axis][int(place)] for place in rng.permutation(2))
        question = _one_of(EITHER, rng).format(a=one.name, b=other.name, one=first, other=second)
        return question, f"The {one.name} is {says}."
    question = _one_of(WHETHER, rng).format(a=one.name, b=other.name, asked=asked)
    return question, f"{'Yes' if asked == true else 'No'}, the {one.name} is {says}."


def _side(one: Thing, other: Thing, axis: int) -> int | None:
    """0 where one lies wholly before the other on that axis (left, above, in front), 1 behind it, else ``None``.

    To the sides and upwards the picture decides: where lines of sight pass, not where the objects are in the room.
    """
    spans = []
    for extent in (one.extent, other.extent):
        low, high = (extent.window[axis], extent.window[axis + 2]) if axis < 2 else (extent.low[2], extent.high[2])
        spans.append((low, high))
    (low, high), (other_low, other_high) = spans
    if high < other_low:
        return 0
    return 1 if low > other_high else None


def _pairs(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[Thing, Thing]]:
    """Every two things, in an order that is drawn; their names tell them apart."""
    for pair in combinations(scene.things, 2):
        first = int(rng.integers(2))
        yield pair[first], pair[1 - first]


def _length(
    kind: str, wordings: Sequence[Wording], rng: np.random.Generator, metres: float, *things: Thing
) -> Question:
    question, answer = _one_of(wordings, rng)
    words = dict(zip("ab", (thing.name for thing in things), strict=False)) | {"value": spoken(metres)}
    return _question(kind, question.format(**words), answer.format(**words), things, (metres,))


def _question(kind: str, question: str, answer: str, things: tuple[Thing, ...], values: tuple[float, ...]) -> Question:
    return Question(kind, KINDS[kind][0], question, answer, tuple(thing.name for thing in things), values)


def _one_of(options: Sequence[Option], rng: np.random.Generator) -> Option:
    return options[int(rng.integers(len(options)))]
