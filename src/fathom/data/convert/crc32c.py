"""CRC-32C (Castagnoli), as TFRecord files have it, at numpy's speed.

A CRC of zeros-in is linear over GF(2): crc(a + b) = shift(crc(a), len(b)) xor crc(b). So long data are cut into equal
lanes whose CRCs run side by side, and are then joined in pairs; 32 further lanes find out what a shift does.
"""

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78  # reversed bits
_LANES = 1024
_SHORT = 256
_BITS = np.arange(32, dtype=np.uint32)


def _table() -> Words:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


_TABLE = _table()
_ROWS = _TABLE.tolist()


def crc32c(data: bytes) -> int:
    """The CRC of ``data``; that of ``b"123456789"`` is 0xE3069283."""
    if len(data) < _SHORT:
        state = 0xFFFFFFFF
        for byte in data:
            state = (state >> 8) ^ _ROWS[(state ^ byte) & 0xFF]
        return state ^ 0xFFFFFFFF
    length = -(-len(data) // _LANES)
    padded = np.zeros(length * _LANES, dtype=np.uint8)  # zeros in front change nothing
    padded[-len(data) :] = np.frombuffer(data, dtype=np.uint8)
    begin = len(padded) - len(data)
    padded[begin : begin + 4] ^= 0xFF  # the same as starting with all bits set
    return _join(*_run_lanes(padded.reshape(_LANES, length))) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """As stored in a TFRecord: rotated and offset, so that a CRC of data that hold CRCs stays a good one."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _run_lanes(lanes: NDArray[np.uint8]) -> tuple[Words, Words]:
    """The CRC of each lane (lanes, length), and what a shift by that length makes of each single bit (32,)."""
    state = np.concatenate([np.zeros(len(lanes), np.uint32), np.uint32(1) << _BITS])
    zeros = np.zeros(32, np.uint8)
    for column in np.ascontiguousarray(lanes.T):
        state = (state >> 8) ^ _TABLE[(state ^ np.concatenate([column, zeros])) & 0xFF]
    return state[:-32], state[-32:]


def _join(crcs: Words, shift: Words) -> int:
    while len(crcs) > 1:
        crcs = _apply(shift, crcs[0::2]) ^ crcs[1::2]
        shift = _apply(shift, shift)
    return int(crcs[0])


def _apply(shift: Words, values: Words) -> Words:
    """The linear map ``shift``, given by what it makes of each bit, of all ``values``."""
    set_bits = (values[:, None] >> _BITS) & 1
    return np.bitwise_xor.reduce(np.where(set_bits, shift, np.uint32(0)), axis=1)
