"""Fast off-screen MuJoCo pictures: RGB, true metric depth and instance segmentation.

One ``mjr_render`` gives both RGB and depth; segmentation costs a second pass. No module here imports torch: environment
workers stay small.
"""

import atexit
import importlib
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import mujoco
import numpy as np

from fathom.simulation.display import opengl_backend
from fathom.simulation.environment import Quality

if TYPE_CHECKING:
    from fathom.simulation.perturber import Perturber


@dataclass(frozen=True)
class Camera:
    """A fixed pinhole camera, given in world coordinates.

    Attributes:
        name: what the view is called in observations (``main`` is the one whose depth is predicted).
        position: metres.
        rotation: unit quaternion (w, x, y, z); the camera looks along its own -z, with +y up in the picture.
        fovy: vertical field of view, degrees.
    """

    name: str
    position: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    fovy: float

    @classmethod
    def look_at(
        cls, name: str, position: tuple[float, float, float], target: tuple[float, float, float], fovy: float
    ) -> Self:
        """The upright camera at ``position`` with ``target`` in the middle of its picture (not straight below it)."""
        forward = np.subtract(target, position)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, np.stack([right, np.cross(right, forward), -forward], axis=1).ravel())
        w, x, y, z = (float(value) for value in quaternion)
        return cls(name, position, (w, x, y, z), fovy)

    @classmethod
    def of_model(cls, name: str, model: mujoco.MjModel, data: mujoco.MjData, camera: str) -> Self:
        """Where the model's own ``camera`` is now: one on a hand moves with it."""
        number = model.camera(camera).id
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, data.cam_xmat[number])
        w, i, j, k = (float(value) for value in quaternion)
        x, y, z = (float(value) for value in data.cam_xpos[number])
        return cls(name, (x, y, z), (w, i, j, k), float(model.cam_fovy[number]))

    def axes(self) -> np.ndarray:
        """(3, 3): the camera's right, up and backward axes, as columns in world coordinates."""
        matrix = np.empty(9)
        mujoco.mju_quat2Mat(matrix, np.array(self.rotation))
        return matrix.reshape(3, 3)


class Picture(NamedTuple):
    """What one camera saw: rgb (H, W, 3) uint8; depth (H, W) float32 metres along the optical axis; segmentation
    (H, W) int32 geom ids, -1 where there is none."""

    rgb: np.ndarray
    depth: np.ndarray | None
    segmentation: np.ndarray | None


class Renderer:
    """Renders one model through one camera into square pictures, upright, row 0 at the top.

    Args:
        model: its shadow and multisampling settings are lowered when ``quality`` is ``fast``.
        size: height and width in pixels.
        quality: ``fast`` drops shadows, reflections and multisampling (about ten times faster on a CPU); ``official``
            keeps the look that the simulator's authors chose.
        perturber: changes what is drawn, anew in each of its episodes.
        hidden_groups: groups of geoms that are not drawn, such as shapes for collisions only.

    Raises:
        UserError: no OpenGL library that works without a display.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        size: int,
        camera: Camera,
        quality: Quality = "fast",
        perturber: "Perturber | None" = None,
        hidden_groups: Sequence[int] = (),
    ) -> None:
        self._fast = quality == "fast"
        if self._fast:
            model.vis.quality.offsamples = 0
            model.vis.quality.shadowsize = 64
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, size)
        model.vis.global_.offheight = max(model.vis.global_.offheight, size)
        self._model = model
        self._size = size
        self._options = mujoco.MjvOption()
        for group in hidden_groups:
            self._options.geomgroup[group] = 0
        self._rect = mujoco.MjrRect(0, 0, size, size)
        # not mujoco.GLContext: that choice was made when mujoco was first imported, perhaps before ours
        self._gl: Any = importlib.import_module(f"mujoco.{opengl_backend()}").GLContext(size, size)
        self._gl.make_current()
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        # Called by the user, at the last reference, or at exit: there before MuJoCo's own hook closes the display,
        # which weakref's would not be.
        self.close = weakref.finalize(self, _free, self._gl, self._context)
        self.close.atexit = False
        atexit.register(self.close)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        # Reversed z spends the buffer's precision evenly: millimetres stay exact far from the near plane.
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        if self._fast:
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._near = float(model.vis.map.znear * model.stat.extent)
        self._far = float(model.vis.map.zfar * model.stat.extent)
        self._user_camera = mujoco.MjvCamera()
        self._user_camera.type = mujoco.mjtCamera.mjCAMERA_USER  # MuJoCo leaves the scene's own camera as we set it
        self._camera = self._view = camera
        self._perturber = perturber
        self._episode = 0  # of the perturber, whose changes the context and the camera show

    def render(
        self,
        data: mujoco.MjData,
        *,
        camera: Camera | None = None,
        depth: bool = False,
        segmentation: bool = False,
    ) -> Picture:
        """Draw the state whose kinematics ``data`` holds (call ``mj_forward`` after moving things by hand).

        Args:
            camera: looked through in this picture instead of the renderer's own; no perturber moves it.
            depth, segmentation: whether they are wanted.
        """
        self._gl.make_current()
        if self._perturber is not None and self._perturber.episode != self._episode:
            self._episode = self._perturber.episode
            self._perturber.hang(self._context)
            self._view = self._perturber.camera(self._camera)
        self._place(camera or self._view)
        self._update_scene(data)
        rgb = np.empty((self._size, self._size, 3), np.uint8)
        buffer = np.empty((self._size, self._size), np.float32) if depth else None
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(rgb, buffer, self._rect, self._context)
        return Picture(
            np.ascontiguousarray(rgb[::-1]),
            None if buffer is None else self._metres(buffer[::-1]),
            self._geom_ids() if segmentation else None,
        )

    def _update_scene(self, data: mujoco.MjData) -> None:
        groups = self._model.geom_group.copy()
        if self._fast:
            # Most time goes into the robot's finely meshed links, and MuJoCo draws them even behind the camera. What
            # lies outside the view leaves no trace in the picture: without shadows, leaving it out changes no pixel.
            distances = (data.geom_xpos - self._position) @ self._frustum.T + self._model.geom_rbound[:, None]
            outside = (distances < 0).any(axis=1) & (self._model.geom_rbound > 0)  # planes have no bound
            self._model.geom_group[outside] = mujoco.mjNGROUP - 1
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._options, None, self._user_camera, everything, self._scene)
        self._model.geom_group[:] = groups
        if self._perturber is not None:
            self._perturber.dress(self._scene)

    def _place(self, camera: Camera) -> None:
        axes = camera.axes()
        slope = np.tan(np.deg2rad(camera.fovy) / 2)
        sides = np.array([[1, 0, -slope], [-1, 0, -slope], [0, 1, -slope], [0, -1, -slope]])
        self._position = np.array(camera.position)
        self._frustum = (
            sides / np.linalg.norm(sides, axis=1, keepdims=True) @ axes.T
        )  # inward normals of its four sides
        top = self._near * slope
        for view in self._scene.camera:  # one per eye; the picture is drawn from their mean
            view.pos = camera.position
            view.forward = -axes[:, 2]
            view.up = axes[:, 1]
            view.orthographic = 0
            view.frustum_center = 0.0
            view.frustum_width = 0.0  # from the picture's own proportions
            view.frustum_top = top
            view.frustum_bottom = -top
            view.frustum_near = self._near
            view.frustum_far = self._far

    def _metres(self, buffer: np.ndarray) -> np.ndarray:
        """Reversed z-buffer (1 at the near plane, 0 at the far plane) to metres along the optical axis."""
        near, far = self._near, self._far
        return (near / (near / far + buffer.astype(np.float64) * (1 - near / far))).astype(np.float32)

    def _geom_ids(self) -> np.ndarray:
        """A second pass in flat colours, one per drawn thing: (H, W) int32 geom ids, -1 for the sky and markers."""
        flags = self._scene.flags.copy()
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = True
        self._scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = True
        for item in self._scene.geoms[: self._scene.ngeom]:
            if item.rgba[3] <= 0:  # invisible, but in flat colours it would be seen and hide what is behind
                item.segid = -1
        colours = np.empty((self._size, self._size, 3), np.uint8)
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(colours, None, self._rect, self._context)
        self._scene.flags[:] = flags
        drawn = colours[::-1].astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], np.int32)
        geom_of = np.full(self._scene.ngeom + 1, -1, np.int32)
        for item in self._scene.geoms[: self._scene.ngeom]:
            if item.segid >= 0 and item.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                geom_of[item.segid + 1] = item.objid
        return geom_of[drawn]


def _free(gl: Any, context: mujoco.MjrContext) -> None:
    gl.make_current()
    context.free()
    gl.free()
