"""A video longer than one window: which frames each window sees, and how the windows' depths become one.

Windows of 32 frames start every 22 frames. The first 10 frames of a window are not those of its time but key frames
of the window before it (its first, its thirteenth and its last eight), so that both see something in common. Two of
them fit scale and shift of the new window to the depth so far; over the other eight the depth fades from one to the
other. (Procedure of the public Video-Depth-Anything code, `infer_video_depth`.)
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

LENGTH, OVERLAP, FADE = 32, 10, 8
STEP = LENGTH - OVERLAP
KEY_FRAMES = np.array([0, 12, 24, 25, 26, 27, 28, 29, 30, 31])
ALIGNED = OVERLAP - FADE
"""How many key frames, the first ones, scale and shift are fitted on."""

Array = np.ndarray


def layout(frames: int) -> Int[Array, "windows 32"]:
    """The numbers of the frames that each window sees; the last frame stands in for those behind the end.

    A window whose first fully weighted frames would all lie behind the end says nothing about the video and is left
    out.
    """
    rows = [np.arange(LENGTH)]
    while (start := len(rows) * STEP) + ALIGNED + 1 < frames:  # the fade gives its own first frame no weight
        rows.append(np.concatenate([rows[-1][KEY_FRAMES], np.arange(start + OVERLAP, start + LENGTH)]))
    return np.minimum(np.stack(rows), frames - 1)


def lengths(frames: int) -> list[int]:
    """How many places of each window of :func:`layout` are read: those before the end of the video."""
    return [min(LENGTH, frames - start) for start in range(0, len(layout(frames)) * STEP, STEP)]


def join(
    windows: Sequence[Float[Array, "places height width"]], frames: int, *, align: bool
) -> Float[Array, "frames height width"]:
    """One depth for the whole video.

    Args:
        windows: the depth at the places of each window, as many as :func:`lengths` says.
        frames: of the video.
        align: fit scale and shift of each window to the depth before it: for relative depth, which has its own in
            every window. Metric depth stays as it is.
    """
    joined = np.empty((frames, *windows[0].shape[1:]), np.float32)
    joined[: len(windows[0])] = windows[0]
    shown = KEY_FRAMES[:ALIGNED]
    reference = windows[0][shown[shown < len(windows[0])]]
    for start, window in zip(range(STEP, frames, STEP), windows[1:], strict=False):
        if align:
            scale, shift = scale_and_shift(window[:ALIGNED], reference)
            window = np.maximum(window * scale + shift, 0)
        new = window[ALIGNED:OVERLAP]
        weight = (np.arange(len(new), dtype=np.float32) / (FADE - 1))[:, None, None]
        faded = joined[start + ALIGNED : start + ALIGNED + len(new)]
        faded[:] = faded * (1 - weight) + new * weight
        joined[start + OVERLAP : start + LENGTH] = window[OVERLAP:]
        reference = np.concatenate([reference[:1], window[shown[1:][shown[1:] < len(window)]]])
    return joined


def scale_and_shift(depth: Float[Array, "*shape"], target: Float[Array, "*shape"]) -> tuple[np.float32, np.float32]:
    """The ``scale`` and ``shift`` for which ``scale * depth + shift`` is nearest to ``target`` in squares; 1 and 0
    where the depth is constant."""
    deviation = depth - (center := depth.mean(dtype=np.float64))
    variance = np.mean(deviation**2)
    if variance == 0:
        return np.float32(1), np.float32(0)
    scale = np.mean(deviation * target) / variance
    return np.float32(scale), np.float32(target.mean(dtype=np.float64) - scale * center)
