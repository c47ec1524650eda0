"""Depth that was measured: by a depth camera, or by a simulator."""

import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from fathom.depth.depth_map import DepthKind, DepthVideo
from fathom.errors import UserError

NEAREST, FARTHEST = 0.03, 30.0
"""Metres between which the median depth of an episode in front of a robot lies; a thousandfold slip falls outside."""

Array = np.ndarray


class RecordedDepth:
    """Depth in files, one of these for each episode in one folder:

    - ``episode_000000.npy``: an array (frames, height, width);
    - ``episode_000000.npz``: the same, as the only array in it or the one called ``depth``;
    - ``episode_000000/``: 16-bit PNGs, one per frame, in the order of their numbers.

    Integers are millimetres, as a RealSense has them; floats are metres along the optical axis. What is 0, negative,
    infinite or no number was not measured.

    Attributes:
        kind: metric.
    """

    kind: DepthKind = "metric"

    def __init__(self, folder: str | Path) -> None:
        """Look into a folder.

        Raises:
            UserError: it is none, or has no episode.
        """
        self._folder = Path(folder)
        if not self._folder.is_dir():
            raise UserError(f"{folder}: there is no such folder; recorded depth needs one with episode_000000.npz …")
        if not any(self._folder.glob("episode_*")):
            raise UserError(f"{folder} has no recorded depth: expected episode_000000.npz, .npy or a folder of PNGs")

    def estimate(self, frames: UInt8[Array, "frames height width 3"], *, episode: int | None = None) -> DepthVideo:
        """The depth recorded with one episode.

        Raises:
            UserError: there is none, it is damaged, it does not have one picture of the frames' size for each frame, or
                its unit is a thousand times off.
        """
        if episode is None:
            raise UserError("recorded depth is found by the episode's number, and none was given")
        path = self._find(episode)
        recorded = _read(path)
        if recorded.ndim != 3:
            raise UserError(f"{path} has the shape {recorded.shape}, expected (frames, height, width)")
        if len(recorded) != len(frames):
            raise UserError(
                f"{path} has {len(recorded)} frames of depth and the episode {len(frames)} of colour: cut them alike"
            )
        if recorded.shape[1:] != frames.shape[1:3]:
            height, width = frames.shape[1:3]
            raise UserError(
                f"{path} is {recorded.shape[1]}x{recorded.shape[2]} and the frames are {height}x{width} pixels: "
                "align the depth to the colour camera first"
            )
        metres = _metres(recorded, path)
        valid = np.isfinite(metres) & (metres > 0)
        if valid.any():
            _check_unit(float(np.median(metres[valid])), recorded.dtype, path)
        provenance = {"estimator": "recorded", "input_size": list(frames.shape[1:3]), "unit": _unit(recorded.dtype)}
        return DepthVideo(np.where(valid, metres, np.float32(0)), self.kind, valid, provenance)

    def _find(self, episode: int) -> Path:
        name = f"episode_{episode:06d}"
        found = [path for ending in (".npz", ".npy", "") if (path := self._folder / f"{name}{ending}").exists()]
        if len(found) != 1:
            what = f"both {found[0].name} and {found[1].name}" if found else f"neither {name}.npz nor .npy nor {name}/"
            raise UserError(f"{self._folder} has {what}: it should have one of them")
        return found[0]


def _read(path: Path) -> Array:
    if path.is_dir():
        return _read_pictures(path)
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            names = content.files
            name = "depth" if "depth" in names else names[0] if len(names) == 1 else None
            if name is None:
                raise UserError(f"{path} has the arrays {', '.join(names) or '(none)'}: call that of the depth 'depth'")
            return content[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is cut short, damaged or no array of numbers ({error})") from None


def _read_pictures(folder: Path) -> Array:
    paths = sorted(folder.glob("*.png"), key=lambda path: (len(path.name), path.name))  # 9.png before 10.png
    if not paths:
        raise UserError(f"{folder} has no .png: expected one 16-bit picture for each frame")
    pictures = [_read_picture(path) for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise UserError(
                f"{path} is {picture.shape} pixels, the first picture {pictures[0].shape}: all must be alike"
            )
    return np.stack(pictures)


def _read_picture(path: Path) -> Array:
    try:
        with Image.open(path) as picture:
            if not picture.mode.startswith("I"):
                raise UserError(f"{path} is a picture of type {picture.mode}: depth is a 16-bit PNG of one channel")
            return np.asarray(picture).astype(np.uint16)
    except OSError as error:
        raise UserError(f"{path} is cut short or no picture ({error})") from None


def _metres(recorded: Array, path: Path) -> Float[Array, "frames height width"]:
    if np.issubdtype(recorded.dtype, np.floating):
        return recorded.astype(np.float32)
    if np.issubdtype(recorded.dtype, np.integer) and recorded.dtype.itemsize > 1:
        return recorded.astype(np.float32) / 1000
    raise UserError(f"{path} has the type {recorded.dtype}: depth is in metres as floats, or in millimetres as uint16")


def _unit(dtype: np.dtype) -> str:
    return "m" if np.issubdtype(dtype, np.floating) else "mm"


_SLIPS = {
    ("mm", "small"): "it seems to hold metres as integers: write them as floats",
    ("mm", "large"): "it seems to be in a finer unit than millimetres: divide by 1000",
    ("m", "small"): "it seems to have been divided by 1000 although it was in metres: multiply by 1000",
    ("m", "large"): "it seems to hold millimetres as floats: divide by 1000, or write them as uint16",
}
"""What an integer in millimetres, or a float in metres, probably is when its depth is too small or too large."""


def _check_unit(median: float, dtype: np.dtype, path: Path) -> None:
    if NEAREST <= median <= FARTHEST:
        return
    read = f"{path}: read as {_unit(dtype)} ({dtype}) its median depth is {median:.3g} m"
    off = "small" if median < NEAREST else "large"
    if not NEAREST <= median * (1000 if off == "small" else 0.001) <= FARTHEST:
        raise UserError(f"{read}, and in front of a robot it lies between {NEAREST} and {FARTHEST:.0f} m")
    raise UserError(f"{read}, about 1000 times too {off}: {_SLIPS[_unit(dtype), off]}")
