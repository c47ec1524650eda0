"""TFRecord files, written from their definitions and not with the code under test."""

import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def bitwise_crc32c(data: bytes) -> int:
    """One bit at a time, as RFC 3720 defines it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = bitwise_crc32c(data)
    return ((crc >> 15 | crc << 17) % 2**32 + 0xA282EAD8) % 2**32


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(length)) + data + struct.pack("<I", masked(data))


def varint(value: int) -> bytes:
    value %= 2**64
    out = b""
    while value >= 0x80:
        out += bytes([value % 0x80 + 0x80])
        value //= 0x80
    return out + bytes([value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(value: Any) -> bytes:
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return message(1, b"".join(message(1, item) for item in value))
    array = np.asarray(value).reshape(-1)
    if np.issubdtype(array.dtype, np.floating):
        return message(2, message(1, array.astype("<f4").tobytes()))
    return message(3, message(1, b"".join(varint(int(item)) for item in array)))


def example(features: Mapping[str, Any]) -> bytes:
    entries = [message(1, message(1, name.encode()) + message(2, feature(value))) for name, value in features.items()]
    return message(1, b"".join(entries))


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def smooth_pictures(length: int, height: int, width: int, seed: int) -> np.ndarray:
    """Pictures without sharp edges or symmetry, which a video codec keeps to within a few levels."""
    y, x = np.mgrid[0:height, 0:width]
    frames = [40 + 2 * x + 3 * y + 5 * t + 7 * seed for t in range(length)]
    return np.stack([np.stack([f, 255 - f, f // 2 + 20], axis=-1) for f in frames]).clip(0, 255).astype(np.uint8)


def write_shards(root: Path, name: str, shards: Sequence[Sequence[bytes]], split: str = "train") -> list[Path]:
    root.mkdir(parents=True)
    (root / "dataset_info.json").write_text(json.dumps({"name": name, "fileFormat": "tfrecord"}))
    paths = []
    for number, examples in enumerate(shards):
        path = root / f"{name}-{split}.tfrecord-{number:05d}-of-{len(shards):05d}"
        path.write_bytes(b"".join(record(content) for content in examples))
        paths.append(path)
    return paths
