"""One frame as a list of named objects with their places and sizes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from fathom.vlm.questions.geometry import DepthMap, Extent, View, is_whole, measure
from fathom.vlm.questions.names import is_object, is_robot, may_mean, readable

LEAST_SHARE = 0.002
LEAST_PIXELS = 16
"""An object is seen if it covers this share of the picture, and so many pixels: 33 of 128x128."""
LEAST_SPAN = 8
"""Pixels across which a width or height is measured: one more or less is then an eighth at most."""


@dataclass(frozen=True)
class Thing:
    """An object that one can ask about: its name means nothing else in the picture."""

    name: str
    extent: Extent


@dataclass(frozen=True)
class Scene:
    """What one frame shows.

    Attributes:
        things: in the order of their labels.
        counts: how many there are of each name; names of which one may be hardly visible are left out.
        total: all objects; ``None`` where one is hardly visible.
    """

    things: tuple[Thing, ...]
    counts: Mapping[str, int]
    total: int | None


def look(depth: DepthMap, labels: Int[np.ndarray, "height width"], names: Mapping[int, str], view: View) -> Scene:
    """The objects of a frame.

    Args:
        depth: metres along the optical axis; 0, negative or not finite where it is not known.
        labels: which object each pixel shows.
        names: of the labels; one that is not named is no object.

    Raises:
        ValueError: the maps have different shapes.
    """
    if depth.shape != labels.shape:
        raise ValueError(f"depth {depth.shape} and labels {labels.shape} are not of the same picture")
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0)
    shown = [int(label) for label in np.unique(labels) if is_object(names.get(int(label), ""))]
    called = {label: readable(names[label]) for label in shown}
    least = max(LEAST_PIXELS, LEAST_SHARE * depth.size)
    seen = [label for label in shown if np.count_nonzero((labels == label) & (depth > 0)) >= least]
    faint = [called[label] for label in shown if label not in seen]

    robot = [label for label, name in names.items() if is_robot(name)]
    scenery = ~np.isin(labels, [*shown, *robot])
    things = []
    for label in seen:
        if not any(may_mean(called[label], called[other]) for other in shown if other != label):
            own = labels == label
            whole = is_whole(own, depth, scenery)
            extent = measure(own & (depth > 0), depth, view, whole=whole, least_pixels=LEAST_SPAN)
            things.append(Thing(called[label], extent))
    counts = {
        name: sum(may_mean(name, called[label]) for label in seen)
        for name in dict.fromkeys(called[label] for label in seen)
        if name != "object" and not any(may_mean(name, other) for other in faint)
    }
    return Scene(tuple(things), counts, None if faint or not seen else len(seen))
