"""MuJoCo chooses its OpenGL when it is first imported: before the tests import it, ours must be chosen."""

import importlib.util

from fathom.simulation.display import opengl_backend

if importlib.util.find_spec("mujoco"):  # ManiSkill's own environment has none
    opengl_backend()
