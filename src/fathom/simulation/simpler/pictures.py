"""Pictures of ManiSkill's Bridge twins: what is simulated stands before a photograph of the real table.

``official``: 640×480 in ManiSkill's default shader, squashed to a square by averaging over areas (OpenCV's INTER_AREA;
SimplerEnv's π0 client does so, open-pi-zero takes Lanczos). ``fast``: drawn at twice the wanted size, already square,
by ManiSkill's minimal shader, and averaged: the same view in hardly other colours, several times quicker on a CPU.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import cv2
import numpy as np

from fathom.simulation.environment import Array, Quality

CAMERA = "3rd_view_camera"
WIDTH, HEIGHT = 640, 480

COMMON_LABELS = ("background", "table", "arm", "gripper")
_GRIPPER_LINKS = {"gripper", "gripper_prop", "gripper_bar", "fingers", "left_finger", "right_finger", "ee_gripper"}


class Picture(NamedTuple):
    """rgb (H, W, 3) uint8; depth (H, W) float32 metres along the optical axis; labels (H, W) uint8."""

    rgb: Array
    depth: Array
    labels: Array


def sensor_settings(intrinsic: Array, quality: Quality, image_size: int) -> dict[str, Any]:
    """How ManiSkill is to draw, as its ``sensor_configs``.

    Args:
        intrinsic: of the twins' own camera (3, 3), in pixels of 640×480.
    """
    if quality == "official":
        return {"shader_pack": "default"}
    side = 2 * image_size
    squashed = np.diag([side / WIDTH, side / HEIGHT, 1.0]) @ intrinsic
    return {"shader_pack": "minimal", CAMERA: {"width": side, "height": side, "intrinsic": squashed}}


class TwinCamera:
    """Looks at one twin.

    Args:
        world: the ManiSkill environment; its models are loaded.
        photograph: the file of its background.
        objects: what segmentation calls the twin's objects, in its order.
        size: side of the pictures.

    Attributes:
        photograph: what stands behind, uint8 (height, width, 3) at the size that is drawn.
        label_names: by label.
    """

    def __init__(self, world: Any, photograph: str, objects: tuple[str, ...], size: int) -> None:
        self._world = world
        self._size = size
        self._sensor = world.scene.sensors[CAMERA]
        drawn = (self._sensor.config.width, self._sensor.config.height)
        stored: Any = cv2.imread(photograph)
        self.photograph: Array = cv2.resize(cv2.cvtColor(stored, cv2.COLOR_BGR2RGB), drawn)
        self.label_names = (*COMMON_LABELS, *objects)
        self._label_of_id, self._own = self._read_ids(objects)
        self._shown = self._own

    def show(self, others: Iterable[int]) -> None:
        """From now on, let the things with these of the simulator's ids, too, stand before the photograph."""
        self._shown = [*self._own, *others]

    def look(self) -> Picture:
        """Draw the state of now."""
        rgb, depth, ids = self._draw()
        rgb = np.where(np.isin(ids, self._shown)[..., None], rgb, self.photograph)
        return Picture(
            cv2.resize(rgb, (self._size, self._size), interpolation=cv2.INTER_AREA),
            # depths and labels are never averaged: between two things there is nothing
            _nearest(depth[..., 0], self._size).astype(np.float32) / 1000,
            _nearest(self._label_of_id.take(ids, mode="clip"), self._size),
        )

    def foreground(self) -> Array:
        """Where something stands before the photograph now: bool (height, width) at the size that is drawn."""
        return np.isin(self._draw()[2], self._shown)

    def _draw(self) -> tuple[Array, Array, Array]:
        self._world.scene.update_render(update_sensors=True, update_human_render_cameras=False)
        self._sensor.capture()
        seen = self._sensor.get_obs(rgb=True, depth=True, segmentation=True, position=False)
        rgb, depth, ids = (seen[kind][0].numpy() for kind in ("rgb", "depth", "segmentation"))
        return rgb, depth, ids[..., 0]

    def _read_ids(self, objects: tuple[str, ...]) -> tuple[Array, list[int]]:
        """The label of each of the simulator's ids (what comes later is 0), and those that hide the photograph."""
        ids = self._world.segmentation_id_map
        labels = np.zeros(max(ids) + 2, np.uint8)
        before = []
        shown = set(self._world.objects_excluded_from_greenscreening)
        label_of = dict(zip(self._world.objs, objects, strict=True)) | {"arena": "table", "sink": "table"}
        links = {link.name for link in self._world.agent.robot.links}
        for number, thing in ids.items():
            part = "gripper" if thing.name.removesuffix("_link") in _GRIPPER_LINKS else "arm"
            name = part if thing.name in links else label_of.get(thing.name, "background")
            labels[number] = self.label_names.index(name)
            if thing.name in links or thing.name in shown:
                before.append(number)
        return labels, before


def _nearest(values: Array, size: int) -> Array:
    """The value in the middle of each pixel of a square picture."""
    rows, columns = (((np.arange(size) + 0.5) * side / size).astype(int) for side in values.shape)
    return np.ascontiguousarray(values[rows[:, None], columns])
