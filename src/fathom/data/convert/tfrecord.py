"""TFRecord files: length, its CRC, data, their CRC, and again."""

import struct
from collections.abc import Iterator
from pathlib import Path

from fathom.data.convert.crc32c import masked_crc32c
from fathom.errors import UserError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")


def record_offsets(path: Path) -> Iterator[int]:
    """Where each record of a file begins; its data are not read yet.

    Raises:
        UserError: the file ends within a record, or a length is damaged: where the next record begins is then unknown.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        number, offset = 0, 0
        while offset < size:
            file.seek(offset)
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                raise _broken(path, number, "is truncated")
            length, crc = _HEADER.unpack(header)
            if masked_crc32c(header[:8]) != crc:
                raise _broken(path, number, "is damaged (the CRC of its length does not fit)")
            after = offset + _HEADER.size + length + _FOOTER.size
            if after > size:
                raise _broken(path, number, "is truncated")
            yield offset
            number, offset = number + 1, after


def read_record(path: Path, offset: int) -> bytes:
    """The data of the record that begins at ``offset``.

    Raises:
        UserError: they are damaged.
    """
    with path.open("rb") as file:
        file.seek(offset)
        length, _ = _HEADER.unpack(file.read(_HEADER.size))
        data, footer = file.read(length), file.read(_FOOTER.size)
    if len(footer) < _FOOTER.size or masked_crc32c(data) != _FOOTER.unpack(footer)[0]:
        raise UserError("the record is damaged (its CRC does not fit); copy the file again from its source")
    return data


def _broken(path: Path, number: int, what: str) -> UserError:
    return UserError(
        f"{path.name} {what} in record {number}, and with it all that follow; copy it again from its source"
    )
