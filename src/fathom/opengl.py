"""Which OpenGL MuJoCo can draw with on a machine without a screen.

A broken driver can crash the process that loads it, and MuJoCo fixes its choice at import. So each candidate is
tried in a process of its own, which must really make a context and draw a small scene, in colour and in depth.

``python -m fathom.opengl`` prints the name of the first one that works and exits with 0, or tells why none does
and exits with 1.
"""

import os
import re
import subprocess
import sys

# Values of MUJOCO_GL, in the order we prefer them. EGL draws on a GPU where there is one; OSMesa is software only.
_CANDIDATES = {"linux": ("egl", "osmesa"), "darwin": ("cgl",), "win32": ("wgl",)}

MEND = "sudo apt-get install -y libegl1 libgl1-mesa-dri libosmesa6"  # Debian and Ubuntu

# A red ball in front of the camera: its pixels are red, and nearer than the floor behind it.
_SCENE = """
<mujoco>
  <worldbody>
    <light pos="0 0 3" dir="0 0 -1"/>
    <camera name="above" pos="0 0 2"/>
    <geom type="plane" size="2 2 0.1" rgba="0.2 0.2 0.2 1"/>
    <geom type="sphere" size="0.4" pos="0 0 0.5" rgba="1 0 0 1"/>
  </worldbody>
</mujoco>
"""


def candidates() -> tuple[str, ...]:
    """The backends worth trying here: what the user set in ``MUJOCO_GL``, else this system's own."""
    chosen = os.environ.get("MUJOCO_GL")
    return (chosen,) if chosen else _CANDIDATES.get(sys.platform, ("glfw",))


def why_not(backend: str, timeout: float = 60) -> str | None:
    """Why MuJoCo cannot draw with ``backend`` (a value of ``MUJOCO_GL``), or None if it can."""
    environment = os.environ | {"MUJOCO_GL": backend}
    environment.pop("PYOPENGL_PLATFORM", None)  # MuJoCo sets it from MUJOCO_GL, and refuses one that disagrees
    try:
        attempt = subprocess.run(
            [sys.executable, "-m", "fathom.opengl", "--draw"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return f"no picture within {timeout:.0f} s"
    if attempt.returncode == 0:
        return None
    if attempt.returncode < 0:
        return f"the driver crashed (signal {-attempt.returncode})"
    if "'NoneType' object has no attribute" in attempt.stderr:  # how PyOpenGL says that there is nothing to load
        return "its library is not installed"
    told = re.search(r"^[\w.]+(?:Error|Exception): .*$", attempt.stderr, re.MULTILINE)
    return told.group() if told else "no picture"


def find() -> tuple[str | None, dict[str, str]]:
    """The first backend that works (None if none does), and why the ones before it do not."""
    failures: dict[str, str] = {}
    for backend in candidates():
        reason = why_not(backend)
        if reason is None:
            return backend, failures
        failures[backend] = reason
    return None, failures


def _draw() -> None:
    import mujoco

    model = mujoco.MjModel.from_xml_string(_SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, height=32, width=32) as renderer:
        renderer.update_scene(data, camera="above")
        red, green, _ = (int(level) for level in renderer.render()[16, 16])
        renderer.enable_depth_rendering()
        renderer.update_scene(data, camera="above")
        depth = renderer.render()
    if red < 2 * green or red < 50:
        raise RuntimeError(f"a red ball was drawn with red {red} and green {green}")
    # The ball's top is 1.1 m under the camera; a corner of the picture shows the floor, 2 m away.
    if abs(depth[16, 16] - 1.1) > 0.05 or abs(depth[0, 0] - 2.0) > 0.05:
        raise RuntimeError(f"depths of 1.1 m and 2.0 m were drawn as {depth[16, 16]:.2f} and {depth[0, 0]:.2f}")


def main() -> int:
    if "--draw" in sys.argv[1:]:
        _draw()
        return 0
    backend, failures = find()
    for name, reason in failures.items():
        print(f"{name}: {reason}", file=sys.stderr)
    if backend is None:
        return 1
    print(backend)
    return 0


if __name__ == "__main__":
    sys.exit(main())
