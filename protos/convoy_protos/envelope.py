"""Bytes of one update on the wire: a header that names it, then the codec's payload.

offset   size  field
     0      4  magic "CVU1"
     4      4  H, length of the header, unsigned little-endian, at most 65,536
     8      H  UpdateHeader, protobuf
   8+H      P  payload; P is UpdateHeader.payload_bytes

The payload stays outside protobuf so that a receiver reads it in place: parsing copies the header
only, whatever the size of the model.
"""

import hashlib
import struct

from google.protobuf.message import DecodeError

from convoy_protos.errors import MalformedMessageError
from convoy_protos.v1.federation_pb2 import UpdateHeader

UPDATE_METRICS = frozenset({"train_loss"})
"""The metrics an update carries, no more and no fewer."""

_MAGIC = b"CVU1"
_PREFIX = struct.Struct("<4sI")
_MAX_HEADER_BYTES = 65_536


def pack(header: UpdateHeader, payload: bytes | memoryview) -> bytes:
    """Join header and payload; fills in the header's payload_bytes and payload_digest."""
    header.payload_bytes = len(payload)
    header.payload_digest = hashlib.sha256(payload).digest()
    encoded = header.SerializeToString(deterministic=True)
    return b"".join((_PREFIX.pack(_MAGIC, len(encoded)), encoded, payload))


def unpack(blob: bytes | memoryview) -> tuple[UpdateHeader, memoryview]:
    """Split what an untrusted peer sent; the payload is a view into `blob`, not a copy.

    The payload's digest is not checked here: see `check_digest`.

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
    start = _PREFIX.size + header_bytes
    try:
        header = UpdateHeader.FromString(bytes(view[_PREFIX.size : start]))
    except DecodeError as error:
        raise MalformedMessageError("the update header does not parse") from error
    payload = view[start:]
    if len(payload) != header.payload_bytes:
        raise MalformedMessageError(
            f"{header.payload_bytes} payload bytes announced, {len(payload)} came"
        )
    return header, payload


def check_digest(header: UpdateHeader, payload: memoryview) -> None:
    """Compare the payload with the digest in its header.

    Raises:
        MalformedMessageError: They differ: the upload was damaged on the way.
    """
    if hashlib.sha256(payload).digest() != header.payload_digest:
        raise MalformedMessageError("the payload does not have the digest in its header")
