"""Pictures kept as files inside the parquet tables (LeRobot's ``dtype: image``)."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fathom.data.features import MILLIMETRES_PER_METRE, Feature


def decode_image(content: bytes, feature: Feature) -> NDArray[Any]:
    """The pixels of one PNG, TIFF or JPEG file, channels first.

    Returns:
        uint8 (3, H, W) for colour, float32 metres (1, H, W) for depth, int32 (1, H, W) for labels.

    Raises:
        OSError: the content is damaged.
    """
    with Image.open(io.BytesIO(content)) as image:
        if feature.kind == "rgb":
            return np.array(image.convert("RGB")).transpose(2, 0, 1).copy()
        pixels = np.asarray(image)
    if feature.kind == "labels":
        return pixels.astype(np.int32)[None]
    return to_metres(pixels, feature.depth_unit)[None]


def to_metres(pixels: NDArray[Any], unit: str | None) -> NDArray[np.float32]:
    """Depth in metres; where a dataset names no unit, integers are millimetres and floats metres, as in lerobot."""
    if unit is None:
        unit = "m" if np.issubdtype(pixels.dtype, np.floating) else "mm"
    depth = pixels.astype(np.float32)
    return depth / np.float32(MILLIMETRES_PER_METRE) if unit == "mm" else depth


def encode_labels(labels: NDArray[np.integer[Any]]) -> bytes:
    """A 16-bit grey PNG of labels (H, W) in 0…65535."""
    buffer = io.BytesIO()
    Image.fromarray(labels.astype(np.uint16)).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
