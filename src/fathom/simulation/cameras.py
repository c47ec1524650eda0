"""How the camera ``main`` of a task sees, as a dataset of its demonstrations tells it.

This runs in worker processes, perhaps those of another Python.
"""

from math import asin, degrees
from typing import TYPE_CHECKING

from fathom.simulation.demonstrations import Style

if TYPE_CHECKING:
    from fathom.simulation.rendering import Camera


def main_view(suite: str, task: str, style: Style) -> dict[str, float] | None:
    """Degrees: ``fovy``, the vertical field of view, and ``tilt``, by which it looks down from the horizontal.

    ``None`` for a suite that is not drawn through a :class:`~fathom.simulation.rendering.Camera`.
    """
    env = style.environment(suite, task)
    env.close()
    camera: Camera | None = getattr(env, "_camera", None) or getattr(env, "_main_view", None)
    if camera is None:
        return None
    backward = camera.axes()[:, 2]
    return {"fovy": round(camera.fovy, 4), "tilt": round(degrees(asin(backward[2])), 4)}
