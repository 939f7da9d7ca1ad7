"""Add AES-256-CTR key streams to vectors of lanes, in place.

Source: NIST SP 800-38A, counter mode; the counter block starts at 0, so a key is used for one stream
only. The stream is cut into the vectors' numbers, little-endian, vector after vector; adding is modulo
the numbers' own size. Any party that has the key computes the same numbers on any machine, which no
random generator of a numerical library promises.
"""

# Shapes: P padded lanes, C counters.

from collections.abc import Callable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

Lanes = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16
Counters = NDArray[np.uint64]
_Vector = NDArray[Any]
_Apply = Callable[..., Any]

KEY_BYTES = 32

# Large enough that Python's calls cost little, small enough for a core's own cache: 32 kB blocks
# take a quarter more time, 1 MB blocks the same.
_BLOCK_BYTES = 1 << 18


class KeyStream:
    """The stream of a key, read piece by piece; the same key gives the same bytes."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, got {len(key)}")
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def read(self, count: int) -> bytes:
        """The next so many bytes."""
        return self._encryptor.update(bytes(count))


class StreamAdder:
    """Vectors that any number of key streams are added to or taken from.

    Attributes:
        lanes_P: uint8 or uint16, changed in place; first in every stream.
        counters_C: uint64, changed in place; after the lanes.
    """

    def __init__(self, lanes_P: Lanes, counters_C: Counters) -> None:
        if lanes_P.dtype not in (np.uint8, np.uint16) or counters_C.dtype != np.uint64:
            raise ValueError(f"no lanes and counters: {lanes_P.dtype}, {counters_C.dtype}")
        self.lanes_P = lanes_P
        self.counters_C = counters_C
        longest = max(lanes_P.nbytes, counters_C.nbytes)
        self._zeros = memoryview(bytes(min(_BLOCK_BYTES, longest)))
        self._block = np.zeros(
            len(self._zeros) + 16, np.uint8
        )  # update_into wants a block to spare

    def add(self, key: bytes) -> None:
        """Add the stream of a 32-byte key."""
        self._apply(np.add, key)

    def subtract(self, key: bytes) -> None:
        """Take the stream of a 32-byte key away again."""
        self._apply(np.subtract, key)

    def _apply(self, change: _Apply, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, got {len(key)}")
        stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        for vector in (self.lanes_P, self.counters_C):
            self._apply_to(change, vector, stream.update_into)

    def _apply_to(
        self, change: _Apply, vector: _Vector, encrypt_into: Callable[[memoryview, Any], int]
    ) -> None:
        item_bytes = vector.dtype.itemsize
        step = max(len(self._zeros) // item_bytes, 1)
        for start in range(0, len(vector), step):
            part = vector[start : start + step]
            encrypt_into(self._zeros[: part.nbytes], self._block)
            numbers = self._block[: part.nbytes].view(vector.dtype.newbyteorder("<"))
            change(part, numbers, out=part)
