"""``tf.train.Example`` from its bytes: the three lists that it knows, by name, without tensorflow.

    Example { Features features = 1; }          Feature { BytesList = 1 | FloatList = 2 | Int64List = 3 }
    Features { map<string, Feature> feature = 1; }        …List { repeated value = 1; }

(tensorflow/core/example/example.proto and feature.proto; protobuf.dev/programming-guides/encoding)
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Value = NDArray[np.float32] | NDArray[np.int64] | list[bytes]

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def parse_example(data: bytes) -> dict[str, Value]:
    """Each feature's list: float32 (n,), int64 (n,), or n byte strings; empty features are left out.

    Raises:
        ValueError: these are not the bytes of an Example.
    """
    values: dict[str, Value] = {}
    for features in _inside(memoryview(data), 1):
        for entry in _inside(features, 1):
            name, feature = b"", memoryview(b"")
            for number, _, content in _fields(entry):
                if number == 1:
                    name = bytes(content)
                elif number == 2:
                    feature = content
            for kind, _, content in _fields(feature):
                values[name.decode()] = _list(kind, content)
    return values


def _list(kind: int, content: memoryview) -> Value:
    if kind == 1:
        return [bytes(value) for value in _inside(content, 1)]
    # repeated numbers are packed into one field, or one field each
    packed = b"".join(bytes(value) for number, _, value in _fields(content) if number == 1)
    if kind == 2:
        return np.frombuffer(packed, dtype="<f4")
    if kind == 3:
        return np.array(list(_integers(memoryview(packed))), dtype=np.int64)
    raise ValueError(f"a feature of kind {kind}")


def _integers(packed: memoryview) -> Iterator[int]:
    place = 0
    while place < len(packed):
        value, place = _varint(packed, place)
        yield value - (1 << 64) if value >> 63 else value


def _inside(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The contents of all fields of that number."""
    return (content for number, wire, content in _fields(message) if number == wanted and wire == _LENGTH)


def _fields(message: memoryview) -> Iterator[tuple[int, int, Any]]:
    """The fields of a message: number, wire type, and the bytes of its content."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        begin = place
        if wire == _VARINT:
            _, place = _varint(message, place)
        elif wire == _LENGTH:
            length, begin = _varint(message, place)
            place = begin + length
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {wire}")
        if place > len(message):
            raise ValueError("a field runs past the end of its message")
        yield number, wire, message[begin:place]


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits per byte, low ones first, and the place behind it."""
    value = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise ValueError("a number has no end")
