"""TFRecord framing, its CRC, and tf.train.Example, against writers from the definitions."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.convert.records import bitwise_crc32c, example, masked, message, record, varint

from fathom.data.convert.crc32c import crc32c, masked_crc32c
from fathom.data.convert.example import parse_example
from fathom.data.convert.tfrecord import read_record, record_offsets
from fathom.errors import UserError


@pytest.mark.parametrize(
    ("data", "expected"),  # RFC 3720, B.4
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
    ],
)
def test_crc_of_the_published_vectors(data: bytes, expected: int) -> None:
    assert crc32c(data) == bitwise_crc32c(data) == expected


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 5000), st.integers(0, 2**32))
def test_crc_of_any_length_is_the_bitwise_one(length: int, seed: int) -> None:
    data = np.random.default_rng(seed).bytes(length)
    assert crc32c(data) == bitwise_crc32c(data)
    assert masked_crc32c(data) == masked(data)


@pytest.mark.parametrize("length", [255, 256, 257, 1023, 1024, 1025, 2048])
def test_crc_where_the_procedure_changes(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == bitwise_crc32c(data)


def test_records_come_back(tmp_path: Path) -> None:
    contents = [b"one", b"", np.random.default_rng(0).bytes(3000)]
    path = tmp_path / "file"
    path.write_bytes(b"".join(record(content) for content in contents))
    assert [read_record(path, offset) for offset in record_offsets(path)] == contents


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    whole = record(b"first") + record(b"second")
    path.write_bytes(whole[:-3])
    offsets = record_offsets(path)
    assert read_record(path, next(offsets)) == b"first"
    with pytest.raises(UserError, match="file is truncated in record 1"):
        next(offsets)
    bad_length = bytearray(whole)
    bad_length[0] ^= 1
    path.write_bytes(bad_length)
    with pytest.raises(UserError, match="the CRC of its length does not fit"):
        next(record_offsets(path))
    bad_data = bytearray(whole)
    bad_data[13] ^= 1
    path.write_bytes(bad_data)
    first, second = record_offsets(path)
    with pytest.raises(UserError, match="its CRC does not fit"):
        read_record(path, first)
    assert read_record(path, second) == b"second"


def test_an_example_is_read() -> None:
    floats = np.array([0.5, -2.0, 1e-3], np.float32)
    integers = [0, 1, -1, 300, 2**62, -(2**63)]
    parsed = parse_example(example({"a/floats": floats, "ints": integers, "texts": [b"x", b"", b"\x00y"]}))
    assert set(parsed) == {"a/floats", "ints", "texts"}
    np.testing.assert_array_equal(parsed["a/floats"], floats)
    assert np.asarray(parsed["ints"]).tolist() == integers
    assert parsed["texts"] == [b"x", b"", b"\x00y"]


def test_numbers_that_are_not_packed_and_unknown_fields_are_read() -> None:
    float_list = b"".join(varint(1 << 3 | 5) + np.float32(v).tobytes() for v in (1.5, 2.5))
    int_list = b"".join(varint(1 << 3) + varint(v) for v in (7, 800))
    entries = b"".join(
        message(1, message(1, name) + message(2, message(kind, content)))
        for name, kind, content in ((b"f", 2, float_list), (b"i", 3, int_list))
    )
    unknown = varint(9 << 3) + varint(5) + varint(10 << 3 | 1) + bytes(8)
    parsed = parse_example(unknown + message(1, entries))
    np.testing.assert_array_equal(parsed["f"], [1.5, 2.5])
    np.testing.assert_array_equal(parsed["i"], [7, 800])


def test_what_is_no_example_is_refused() -> None:
    good = example({"a": np.ones(3, np.float32)})
    for content in (good[:-2], b"\xff" * 20, b"\x0b"):
        with pytest.raises(ValueError):
            parse_example(content)
