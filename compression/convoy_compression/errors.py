"""Errors of the compression package.

CompressionError (convoy_protos.ProtocolError)
  CorruptPayloadError     the payload is not what this codec writes
    PayloadLengthError    its length is not that of an update of this many parameters
  InvalidUpdateError      the update holds NaN, infinite or absurdly large values
"""

from convoy_protos.errors import ProtocolError


class CompressionError(ProtocolError):
    """Base of what a peer's payload can cause."""


class CorruptPayloadError(CompressionError):
    """The payload is not what this codec writes."""


class PayloadLengthError(CorruptPayloadError):
    """The payload's length is not that of an update of this many parameters."""

    def __init__(self, expected_bytes: int, got_bytes: int) -> None:
        super().__init__(f"expected a payload of {expected_bytes} bytes, got {got_bytes}")
        self.expected_bytes = expected_bytes
        self.got_bytes = got_bytes


class InvalidUpdateError(CompressionError):
    """The update holds NaN, infinite or absurdly large values."""
