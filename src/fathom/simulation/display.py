"""Choosing the OpenGL that MuJoCo draws with, once for a program and all its worker processes."""

import os
from functools import cache

from fathom import opengl
from fathom.errors import UserError

_CHECKED = "FATHOM_OPENGL"  # tells child processes what their parent has already tried


@cache
def opengl_backend() -> str:
    """The OpenGL that works here without a display (``egl``, ``osmesa``, ...), also left in ``MUJOCO_GL``.

    Call it before mujoco is imported, which refuses values of ``MUJOCO_GL`` that it does not know in its own words.

    Raises:
        UserError: there is none, or ``MUJOCO_GL`` asks for one that does not work.
    """
    asked = os.environ.get("MUJOCO_GL")
    if asked and asked == os.environ.get(_CHECKED):
        return asked
    backend, failures = opengl.find()
    if backend is None:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        if asked:
            raise UserError(f"MUJOCO_GL={asked} does not work here ({reasons}): unset it, or run `{opengl.MEND}`.")
        raise UserError(f"MuJoCo can draw with no OpenGL here ({reasons}): run `{opengl.MEND}`.")
    os.environ["MUJOCO_GL"] = os.environ[_CHECKED] = backend
    return backend
