"""Depth maps that people bring: arrays and files, in metres or millimetres, checked before a model sees them."""

import struct
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

from fathom.depth.depth_map import DepthKind, DepthVideo
from fathom.depth.estimators import Estimator
from fathom.errors import UserError

Unit = Literal["m", "mm"]
DepthSource = DepthVideo | np.ndarray | Path | str
ImageSource = Image.Image | np.ndarray | Path | str

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises on files that are no pictures, or damaged ones: a broken PNG chunk is a SyntaxError to it."""

_PLAUSIBLE_METRES = (0.05, 250.0)
"""The median depth of a photograph of anything that people ask about; outside, the unit is wrong."""


def read_image(source: ImageSource) -> Image.Image:
    """A picture as RGB, upright as its camera says.

    Args:
        source: a file, or (height, width, 3) uint8.

    Raises:
        UserError: the file is missing or no picture.
    """
    if isinstance(source, np.ndarray):
        source = Image.fromarray(source)
    if not isinstance(source, Image.Image):
        try:
            with Image.open(source) as image:
                source = ImageOps.exif_transpose(image.convert("RGB") if image.mode == "P" else image)
        except FileNotFoundError:
            raise UserError(f"{source}: there is no such picture") from None
        except UNREADABLE as error:
            raise UserError(f"{source} cannot be read as a picture ({error})") from None
    return source.convert("RGB")


def depth_of(
    picture: Image.Image,
    source: DepthSource | None,
    kind: DepthKind,
    unit: Unit | None = None,
    estimator: Estimator | None = None,
) -> DepthVideo:
    """The depth of a picture's pixels, as :func:`read_depth` returns it.

    Args:
        source: see :func:`read_depth`; where there is none, the estimator is asked.
        kind: which depth it should be.
        unit: of a source.

    Raises:
        UserError: there is neither, the depth is bad, or it has another size or aspect than the picture.
    """
    if source is None:
        if estimator is None:
            raise UserError(f"{kind} depth is needed, and there is none: give a depth map or an estimator")
        source, unit = estimator.estimate(np.asarray(picture)[None]), None
    depth = read_depth(source, kind, unit)
    _check_same_view(depth, picture, str(source) if isinstance(source, (str, Path)) else "the depth map")
    return depth


def read_depth(source: DepthSource, kind: DepthKind, unit: Unit | None = None) -> DepthVideo:
    """One depth map, as the only frame of a :class:`DepthVideo`.

    Args:
        source: (height, width); or a .npy file of that shape, or a picture of one channel and more than 8 bits.
            0, negative and non-finite values are not known; of relative inverse depth in fractions, whose scale may
            begin anywhere, only non-finite ones. A :class:`DepthVideo` of one frame is taken as it is; what this
            function returned comes back unchanged.
        kind: which depth it should be.
        unit: of metric depth; by default whole numbers are millimetres and fractions are metres.

    Returns:
        As a dataset keeps it: metres, or relative inverse depth in (0, 1]; 0 where it is not known. Relative inverse
        depth in whole numbers, such as that of `fathom vlm pairs`, is divided by its largest value.

    Raises:
        UserError: it is missing, damaged, of more than one channel, of another kind, nowhere known, or its unit is
            wrong.
    """
    name = str(source) if isinstance(source, (str, Path)) else "the depth map"
    if isinstance(source, DepthVideo):
        depth = source
        if depth.kind != kind:
            raise UserError(f"{name} is {depth.kind} depth, and the model reads {kind} depth: take another estimator")
    else:
        values = _one_channel(_array(source), name)
        if kind == "metric":
            metres = _metres(values, unit, name)[None]
            depth = DepthVideo(metres, kind, _above_zero(metres))
        elif unit is not None:
            raise UserError(f"{name}: relative inverse depth has no unit, and unit={unit} was given: leave it out")
        else:
            depth = _relative(values[None], name)
    if not depth.valid.any():
        raise UserError(f"{name}: no pixel has a known depth (finite and above 0): is it the right file?")
    if "range" in depth.provenance:  # it was stored before
        return depth
    if kind == "metric":
        return DepthVideo(np.where(depth.valid, depth.values, 0).astype(np.float32), kind, depth.valid)
    try:
        return depth.stored()
    except UserError:
        raise _constant(name) from None


def _check_same_view(depth: DepthVideo, image: Image.Image, name: str) -> None:
    if len(depth) != 1:
        raise UserError(f"{name} has {len(depth)} frames, and the picture is one")
    height, width = depth.values.shape[1:]
    if (width, height) == image.size:
        return
    theirs = f"{width}x{height} pixels and the picture {image.width}x{image.height}"
    if abs(width * image.height - height * image.width) > max(image.size):  # more than rounding a scaled side explains
        raise UserError(f"{name} has {theirs}, another aspect: they do not show the same view; crop both alike")
    raise UserError(f"{name} has {theirs}: resize one to the other (depth by nearest neighbour)")


def resized(depth: DepthVideo, size: tuple[int, int]) -> DepthVideo:
    """One depth map at another size (width, height), as its picture was resized.

    By nearest neighbour: between an object and its background there is nothing at their mean depth.
    """
    values, known = (
        np.asarray(Image.fromarray(part).resize(size, Image.Resampling.NEAREST))
        for part in (depth.values[0], depth.valid[0])
    )
    return DepthVideo(values[None], depth.kind, known[None], depth.provenance)


def nearest_known(depth: DepthVideo, x: int, y: int) -> float:
    """One depth map's value at a pixel or, where it has a hole, at the nearest pixel that is known."""
    rows, columns = np.nonzero(depth.valid[0])
    nearest = int(np.argmin((rows - y) ** 2 + (columns - x) ** 2))
    return float(depth.values[0, rows[nearest], columns[nearest]])


def _array(source: np.ndarray | Path | str) -> np.ndarray:
    if isinstance(source, np.ndarray):
        return source
    try:
        if Path(source).suffix == ".npy":
            return np.load(source, allow_pickle=False)
        with Image.open(source) as image:
            values, palette = np.asarray(image), image.mode == "P"
    except FileNotFoundError:
        raise UserError(f"{source}: there is no such depth map") from None
    except UNREADABLE as error:
        raise UserError(f"{source} cannot be read as a depth map ({error})") from None
    if palette:
        raise UserError(f"{source} is a picture with a palette, not depth: give a 16-bit PNG or a .npy file")
    if values.ndim == 2 and values.dtype.itemsize == 1:
        raise UserError(f"{source} has 8 bits per pixel, too few for depth: give a 16-bit PNG or a .npy file")
    return values


def _one_channel(values: np.ndarray, name: str) -> Float[np.ndarray, "height width"]:
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values.squeeze(0 if values.shape[0] == 1 else 2)
    if values.ndim == 3:
        channels = min(values.shape[0], values.shape[2])
        raise UserError(
            f"{name} has {channels} channels, and depth has one: give a 16-bit PNG or a .npy file of depths, not a "
            "coloured picture of them"
        )
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise UserError(f"{name} should be numbers of shape (height, width), not {values.dtype} {values.shape}")
    return values


def _metres(
    values: Float[np.ndarray, "height width"], unit: Unit | None, name: str
) -> Float[np.ndarray, "height width"]:
    if unit not in (None, "m", "mm"):
        raise UserError(f"{name}: there is no unit {unit!r}: it is m or mm")
    unit = unit or ("m" if values.dtype.kind == "f" else "mm")
    metres = values.astype(np.float32) / (1000 if unit == "mm" else 1)
    known = _above_zero(metres)
    if not known.any():
        return metres
    median, (low, high) = float(np.median(metres[known])), _PLAUSIBLE_METRES
    if low <= median <= high:
        return metres
    other = "mm" if unit == "m" else "m"
    hint = f"say unit={other}" if (median > high) == (unit == "m") else "is it metric depth?"
    raise UserError(f"{name}: its median depth would be {median:,.4g} m with unit={unit}: {hint}")


def _relative(values: np.ndarray, name: str) -> DepthVideo:
    """Relative inverse depth as it was brought, or, of whole numbers, already as it is stored.

    Whole numbers have 0 for what is not known, and are not cut to percentiles: those of `fathom vlm pairs` were once.
    """
    if values.dtype.kind == "f":
        return DepthVideo(values, "relative_inverse", np.isfinite(values))
    known, most = values > 0, int(values.max(initial=0))
    if known.any() and values[known].min() == most:
        raise _constant(name)
    scaled = np.where(known, values / max(most, 1), 0).astype(np.float32)
    return DepthVideo(scaled, "relative_inverse", known, {"range": [0, most]})


def _above_zero(values: np.ndarray) -> np.ndarray:
    return np.isfinite(values) & (values > 0)


def _constant(name: str) -> UserError:
    return UserError(f"{name}: the depth is the same everywhere: is it the right file?")
