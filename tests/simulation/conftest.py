"""MuJoCo chooses its OpenGL when it is first imported: before the tests import it, ours must be chosen."""

from fathom.simulation.display import opengl_backend

opengl_backend()
