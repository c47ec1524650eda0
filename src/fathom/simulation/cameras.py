"""How the camera ``main`` of a task sees, as a dataset of its demonstrations tells it.

This runs in worker processes, perhaps those of another Python.
"""

from math import asin, degrees

from fathom.simulation.demonstrations import Style


def main_view(suite: str, task: str, style: Style) -> dict[str, float] | None:
    """Degrees: ``fovy``, the vertical field of view, and ``tilt``, by which it looks down from the horizontal.

    ``None`` for a suite that is not drawn through a :class:`~fathom.simulation.rendering.Camera`.
    """
    env = style.environment(suite, task)
    env.close()
    camera = env.main_camera
    if camera is None:
        return None
    backward = camera.axes()[:, 2]
    return {"fovy": round(camera.fovy, 4), "tilt": round(degrees(asin(backward[2])), 4)}
