"""Unsigned integers of m bits as bytes, nothing between them.

Eight values of up to eight bits make m bytes: value i of a group stands at bit m * i, little-endian.
Values of more than eight bits are two sections: all low bytes, then the rest packed as m - 8 bits.
"""

# Shapes: P values, a multiple of 8; G = P / 8 groups.

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convoy_compression.errors import PayloadLengthError

Lanes = NDArray[np.unsignedinteger[Any]]
"""uint8 or uint16, shape (P,)."""


def lane_type(bits: int) -> type[np.uint8 | np.uint16]:
    """The smallest type for values of so many bits.

    Raises:
        ValueError: Not in 1..16.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"bits must be in 1..16, got {bits}")
    return np.uint8 if bits <= 8 else np.uint16


def packed_bytes(count: int, bits: int) -> int:
    """Length of `count` packed values; count is a multiple of 8."""
    if count % 8:
        raise ValueError(f"values are packed in groups of 8, got {count}")
    return count // 8 * bits


def pack(lanes_P: Lanes, bits: int) -> bytes:
    """Bytes of the low `bits` bits of every value; what stands above them is dropped."""
    packed_bytes(lanes_P.size, bits)
    if bits in (8, 16):
        return np.ascontiguousarray(lanes_P, np.dtype(lane_type(bits)).newbyteorder("<")).tobytes()
    if bits < 8:
        return _pack_small(lanes_P.astype(np.uint8, copy=False), bits)
    high = (lanes_P >> np.uint16(8)).astype(np.uint8)
    return lanes_P.astype(np.uint8).tobytes() + _pack_small(high, bits - 8)


def unpack(payload: memoryview | bytes, count: int, bits: int) -> Lanes:
    """The inverse of `pack`; may be a read-only view of the payload.

    Raises:
        PayloadLengthError: The payload is not that of `count` values.
    """
    expected = packed_bytes(count, bits)
    received = np.frombuffer(payload, np.uint8)
    if received.size != expected:
        raise PayloadLengthError(expected, received.size)
    if bits in (8, 16):
        return received.view(np.dtype(lane_type(bits)).newbyteorder("<"))
    if bits < 8:
        return _unpack_small(received, count, bits)
    high = _unpack_small(received[count:], count, bits - 8)
    lanes: Lanes = received[:count] | (high.astype(np.uint16) << np.uint16(8))
    return lanes


def _pack_small(values_P: NDArray[np.uint8], bits: int) -> bytes:
    values_G8 = values_P.reshape(-1, 8)
    mask = np.uint8((1 << bits) - 1)
    groups_G = np.zeros(len(values_G8), "<u8")
    for place in range(8):
        groups_G |= (values_G8[:, place] & mask).astype("<u8") << np.uint64(bits * place)
    return groups_G.view(np.uint8).reshape(-1, 8)[:, :bits].tobytes()


def _unpack_small(received: NDArray[np.uint8], count: int, bits: int) -> NDArray[np.uint8]:
    padded_G8 = np.zeros((count // 8, 8), np.uint8)
    padded_G8[:, :bits] = received.reshape(-1, bits)
    groups_G = padded_G8.view("<u8").reshape(-1)
    values_G8 = np.empty((count // 8, 8), np.uint8)
    mask = np.uint64((1 << bits) - 1)
    for place in range(8):
        values_G8[:, place] = (groups_G >> np.uint64(bits * place)) & mask
    return values_G8.reshape(-1)
