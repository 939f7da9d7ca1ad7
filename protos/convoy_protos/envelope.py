"""Bytes of one update on the wire: a header that names it, then the codec's payload.

offset   size  field
     0      4  magic "CVU2"
     4      4  H, length of the header, unsigned little-endian, at most 65,536
     8      H  UpdateHeader, protobuf
   8+H      A  zeros, as few as bring what follows to a multiple of 16
 8+H+A      P  payload; P is UpdateHeader.payload_bytes

The payload stays outside protobuf so that a receiver reads it in place: parsing copies the header
only, whatever the size of the model. Checking float32 numbers that straddle their four bytes takes
1.5 times as long, hence the zeros.

There is no digest of the payload. A torn upload shows in its length; a bit flipped on the way shows
below us, where Flower names every object by its SHA-256 and TLS carries a MAC; a vehicle that lies
would compute the digest of its lie. Hashing would cost three times as much as adding.
"""

import struct
from typing import Final

from google.protobuf.message import DecodeError

from convoy_protos.errors import MalformedMessageError
from convoy_protos.v1.federation_pb2 import UpdateHeader

UPDATE_METRICS = frozenset({"train_loss"})
"""The metrics an update carries, no more and no fewer."""

SUM_COUNTERS: Final = ("count", "weight", "clipped", "loss_sum", "squared_norm", "loss_weight")
"""64-bit numbers that are summed under masks behind the vector, modulo 2**64. loss_sum is weighted by
examples; it and squared_norm are in units of 1 / COUNTER_SCALE. loss_weight is the weight behind
loss_sum: 0 of a vehicle that withholds its loss."""
SCORE_COUNTERS: Final = (
    *("count", "balanced_accuracy", "throttle_error", "loss"),
    *("left", "straight", "right"),
    *("left_correct", "straight_correct", "right_correct"),
)
"""What is summed where vehicles score a model: no vector, these alone. balanced_accuracy is each
vehicle's own; it, throttle_error and loss are in units of 1 / COUNTER_SCALE; the rest are held-back
examples by steering class, all and predicted right."""
COUNTER_SCALE: Final = 2**20

_MAGIC = b"CVU2"
_PREFIX = struct.Struct("<4sI")
_MAX_HEADER_BYTES = 65_536
_ALIGNMENT = 16  # what malloc gives, and so where a receiver's bytes begin


def envelope_limit(payload_limit: int) -> int:
    """The most bytes an envelope may have around a payload of so many."""
    return _PREFIX.size + _MAX_HEADER_BYTES + _ALIGNMENT + payload_limit


def pack(header: UpdateHeader, payload: bytes | memoryview) -> bytes:
    """Join header and payload; fills in the header's payload_bytes."""
    header.payload_bytes = memoryview(payload).nbytes
    encoded = header.SerializeToString(deterministic=True)
    zeros = bytes(_padding(len(encoded)))
    return b"".join((_PREFIX.pack(_MAGIC, len(encoded)), encoded, zeros, payload))


def unpack(blob: bytes | memoryview) -> tuple[UpdateHeader, memoryview]:
    """Split what an untrusted peer sent; the payload is a view into `blob`, not a copy.

    Raises:
        MalformedMessageError: Wrong magic, a header that does not parse, or a length that does not fit.
    """
    view = memoryview(blob)
    if len(view) < _PREFIX.size:
        raise MalformedMessageError(f"an update needs {_PREFIX.size} bytes, got {len(view)}")
    magic, header_bytes = _PREFIX.unpack_from(view)
    if magic != _MAGIC:
        raise MalformedMessageError(f"an update starts with {_MAGIC!r}, got {magic!r}")
    if header_bytes > min(_MAX_HEADER_BYTES, len(view) - _PREFIX.size):
        raise MalformedMessageError(f"a header of {header_bytes} bytes does not fit")
    end = _PREFIX.size + header_bytes
    start = end + _padding(header_bytes)
    try:
        header = UpdateHeader.FromString(bytes(view[_PREFIX.size : end]))
    except DecodeError as error:
        raise MalformedMessageError("the update header does not parse") from error
    if any(view[end:start]):
        raise MalformedMessageError("what fills up the header must be zero")
    payload = view[start:]
    if len(payload) != header.payload_bytes:
        raise MalformedMessageError(
            f"{header.payload_bytes} payload bytes announced, {len(payload)} came"
        )
    return header, payload


def _padding(header_bytes: int) -> int:
    return -(_PREFIX.size + header_bytes) % _ALIGNMENT
