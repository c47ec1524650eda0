"""Demonstrations in HDF5 files as LIBERO and robomimic publish them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from fathom.data.convert.conversion import Place, Recording
from fathom.data.features import ACTION, IMAGES, MAIN_DEPTH, MILLIMETRES_PER_METRE, STATE, Feature
from fathom.errors import UserError

JOINTS = "observation.joints"
_DEMOS_PER_FILE = 100_000
_STATE_NAMES = ("x", "y", "z", "rx", "ry", "rz", "finger_left", "finger_right")
_ACTION_NAMES = ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")


@dataclass(frozen=True)
class Layout:
    """What things are called in a demonstration's ``obs``, and how its pictures lie.

    Attributes:
        cameras: names of pictures, by the camera that they become.
        depth: the depth of the camera ``main``.
        position: of the end effector.
        orientation: of the end effector: three numbers axis × angle, or a quaternion x, y, z, w.
        gripper: positions of the two fingers.
        rotated: pictures are turned by 180° to be as the public recipes train on them.
    """

    name: str
    cameras: Mapping[str, str]
    depth: str
    position: str
    orientation: str
    gripper: str
    joints: str
    rotated: bool


LIBERO = Layout(
    name="LIBERO",
    cameras={"main": "agentview_rgb", "wrist": "eye_in_hand_rgb"},
    depth="agentview_depth",
    position="ee_pos",
    orientation="ee_ori",
    gripper="gripper_states",
    joints="joint_states",
    rotated=True,
)
ROBOMIMIC = Layout(
    name="robomimic",
    cameras={"main": "agentview_image", "wrist": "robot0_eye_in_hand_image"},
    depth="agentview_depth",
    position="robot0_eef_pos",
    orientation="robot0_eef_quat",
    gripper="robot0_gripper_qpos",
    joints="robot0_joint_pos",
    rotated=False,
)
LAYOUTS = (LIBERO, ROBOMIMIC)


@dataclass(frozen=True)
class Hdf5Source:
    """HDF5 files with demonstrations ``data/demo_N``.

    Attributes:
        root: one file, or a folder of them.
        task: the instruction of all demonstrations; ``None`` for the one that each file names.
    """

    root: Path
    layout: Layout
    fps: int
    task: str | None = None
    robot_type: str = "panda"

    @classmethod
    def open(cls, root: str | Path, *, task: str | None = None) -> "Hdf5Source":
        """Opens a file, or all ``*.hdf5`` in a folder.

        Raises:
            UserError: there is no readable file with demonstrations, their layout is unknown, or h5py is missing.
        """
        path = Path(root)
        for file in _files(path):
            try:
                with _opened(file) as data:
                    demo = data[_demos(file, data)[0]]
                    return cls(path, _layout(file, demo), _rate(data), task)
            except UserError as error:
                last = error
        raise last

    @property
    def conventions(self) -> Mapping[str, str]:
        """What is stored."""
        turned = (
            "rotated by 180° (rows and columns reversed): files hold them as OpenGL renders them, upside down, and "
            "this is what the public recipes train and evaluate with"
        )
        return {
            "pictures": turned if self.layout.rotated else "as in the files: robomimic stores them upright",
            "state": "end effector in the world: metres, then axis × angle in radians; then the positions of the two "
            "fingers in metres (0 closed, ±0.04 open)",
            "action": "as published, what the simulator takes: changes of position and of axis × angle in −1 … 1 of "
            "the controller's range",
            "gripper": "−1 opens, +1 closes",
        }

    def places(self) -> list[Place]:
        """All demonstrations of all files, in the order of their numbers; a file that cannot be read is one place."""
        places = []
        for number, file in enumerate(_files(self.root)):
            first = number * _DEMOS_PER_FILE
            try:
                with _opened(file) as data:
                    for demo in _demos(file, data):
                        places.append(Place(first + _number(demo), f"{file.name}, {demo}", file, demo))
            except UserError as error:
                places.append(Place(first, file.name, file, None, str(error)))
        return places

    def read(self, place: Place) -> Recording:
        """One demonstration.

        Raises:
            UserError: something of it is missing or damaged, or no instruction is known.
        """
        with _opened(place.file) as data:
            demo = data[place.at]
            task = self.task or _instruction(data, demo)
            if "obs" not in demo or "actions" not in demo:
                raise UserError("it has no obs or no actions; files without observations must be rendered first")
            return Recording(self._frames(demo["obs"]) | {ACTION: _array(demo, "actions").astype(np.float32)}, task)

    def features(self, recording: Recording) -> dict[str, Feature]:
        """Those of the demonstration, with pictures of its size."""
        made: dict[str, Feature] = {}
        for name, values in recording.frames.items():
            if name == MAIN_DEPTH:
                made[name] = Feature.depth(*values.shape[1:3])
            elif name.startswith(IMAGES):
                made[name] = Feature.rgb(*values.shape[1:3])
            else:
                named = {STATE: _STATE_NAMES, ACTION: _ACTION_NAMES}.get(name)
                made[name] = Feature.vector(named if named and len(named) == values.shape[1] else values.shape[1])
        return made

    def _frames(self, obs: Any) -> dict[str, NDArray[Any]]:
        layout = self.layout
        if layout.cameras["main"] not in obs:
            raise UserError(f"the camera {layout.cameras['main']} is missing")
        frames = {
            f"{IMAGES}{camera}": self._upright(_array(obs, name))
            for camera, name in layout.cameras.items()
            if name in obs
        }
        if layout.depth in obs:
            frames[MAIN_DEPTH] = self._upright(metres(_array(obs, layout.depth)))
        orientation = _array(obs, layout.orientation)
        if orientation.shape[-1] == 4:
            orientation = axis_angle(orientation)
        parts = [_array(obs, layout.position), orientation, _array(obs, layout.gripper)]
        if len({len(part) for part in parts}) > 1:
            raise UserError(f"the parts of the state have different lengths: {', '.join(str(len(p)) for p in parts)}")
        frames[STATE] = np.concatenate(parts, axis=1).astype(np.float32)
        if layout.joints in obs:
            frames[JOINTS] = _array(obs, layout.joints).astype(np.float32)
        return frames

    def _upright(self, pictures: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(pictures[:, ::-1, ::-1]) if self.layout.rotated else pictures


def axis_angle(quaternions: Float[np.ndarray, "steps 4"]) -> Float[np.ndarray, "steps 3"]:
    """Axis × angle (0 … 2π) of quaternions x, y, z, w, as robosuite's ``quat2axisangle`` has it."""
    w = np.clip(quaternions[:, 3:], -1.0, 1.0)
    sine = np.sqrt(1.0 - w * w)
    turned = sine > 1e-8
    return np.where(turned, quaternions[:, :3] * 2.0 * np.arccos(w) / np.where(turned, sine, 1.0), 0.0)


def metres(depth: NDArray[Any]) -> NDArray[np.float32]:
    """Depth (steps, height, width) in metres: integers are millimetres, as depth cameras have them.

    Raises:
        UserError: numbers that can be no metres: millimetres as floats, or a raw z-buffer.
    """
    depth = depth.reshape(depth.shape[:3])
    if np.issubdtype(depth.dtype, np.integer):
        return depth.astype(np.float32) / np.float32(MILLIMETRES_PER_METRE)
    known = depth[np.isfinite(depth) & (depth > 0)]
    if known.size and np.median(known) > 100:
        raise UserError(f"its depth is {np.median(known):.0f} in the middle: these are millimetres, not metres")
    if known.size and known.min() > 0.9 and known.max() <= 1.0:
        raise UserError("its depth lies between 0.9 and 1 everywhere: this is a raw z-buffer, not metres; convert it")
    return depth.astype(np.float32)


def _files(root: Path) -> list[Path]:
    files = [root] if root.is_file() else sorted([*root.glob("*.hdf5"), *root.glob("*.h5")])
    if not files:
        raise UserError(f"{root}: there is no HDF5 file here; give one, or a folder of *.hdf5.")
    return files


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """The group ``data`` of a file.

    Raises:
        UserError: it is truncated or holds no demonstrations, or h5py is missing.
    """
    try:
        import h5py  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise UserError("reading HDF5 needs h5py: pip install 'fathom-vla[hdf5]'.") from None
    try:
        with h5py.File(file, "r") as opened:
            if "data" not in opened:
                raise UserError(f"{file}: there is no group 'data', so it holds no LIBERO or robomimic demonstrations.")
            yield opened["data"]
    except (OSError, RuntimeError) as error:  # the second where a part of the file is damaged
        raise UserError(f"{file} is truncated or damaged ({error}); copy it again from its source") from error


def _number(demo: str) -> int:
    return int(demo.removeprefix("demo_"))


def _demos(file: Path, data: Any) -> list[str]:
    demos = [name for name in data if name.startswith("demo_") and name.removeprefix("demo_").isdigit()]
    if not demos:
        raise UserError(f"{file}: its group 'data' holds no demonstrations demo_0, demo_1 …")
    return sorted(demos, key=_number)


def _layout(file: Path, demo: Any) -> Layout:
    there = list(demo.get("obs", ()))
    for layout in LAYOUTS:
        if layout.position in there:
            return layout
    wanted = " or ".join(f"{layout.position} ({layout.name})" for layout in LAYOUTS)
    raise UserError(
        f"{file}: obs holds {', '.join(there) or 'nothing'}, but {wanted} is expected; render the observations first."
    )


def _array(group: Any, name: str) -> NDArray[Any]:
    if name not in group:
        raise UserError(f"{name} is missing")
    return np.asarray(group[name])


def _attribute(group: Any, name: str) -> Mapping[str, Any]:
    """A JSON attribute; empty where there is none."""
    try:
        value = json.loads(group.attrs.get(name, "{}"))
    except (ValueError, TypeError):
        return {}
    return value if isinstance(value, dict) else {}


def _rate(data: Any) -> int:
    """The controller's rate; 20 Hz in both simulators where the file does not tell."""
    return int(_attribute(data, "env_args").get("env_kwargs", {}).get("control_freq", 20))


def _instruction(data: Any, demo: Any) -> str:
    told = _attribute(data, "problem_info").get("language_instruction") or _attribute(demo, "ep_meta").get("lang")
    text = "".join(told) if isinstance(told, list) else told  # older LIBERO files: a list of characters
    if not text or not text.strip('" '):
        raise UserError("it names no instruction; give one with --task")
    return str(text.strip('" '))
