"""The sealed codec's numbers: rounded to a grid, most of them zero, deflated.

    update -> round to multiples of step -> bitmap of the non-zero ones, and their values -> raw deflate

The step follows the update's own root mean square, so an update takes about one bit a parameter.
Updates are heavy-tailed: values beyond a byte are escaped to 32 bits and never cut off.

No rotation: the tails that it spreads are what a plain grid and an entropy coder live from
(EDEN, Vargaftik et al., ICML 2022, with 2 bits: three times the error for twice the bytes).

Payload, little-endian, nothing after it:

    uint32   parameter count N
    float32  step, at least 2**-126
    uint32   non-zero values K
    uint32   of these escaped, E
    uint32   bytes of the bitmap section
    uint32   bytes of the values section
    bitmap   N bits, first parameter in the highest bit, padded with zeros to whole bytes; raw deflate
    values   K times int8 in -127..127 but not 0, or -128: escaped; raw deflate
    escaped  E times int32 outside -127..127
"""

# Shapes: N parameters, K non-zero values of them, E escaped values of those.

import math
import struct
import zlib
from typing import Final

import numpy as np

from convoy_compression.errors import CorruptPayloadError, InvalidUpdateError, PayloadLengthError
from convoy_compression.update.vector import Float32Vector
from convoy_compression.update.weighted_sum import WeightedSum

LARGEST_ENCODED: Final = 2.0**64
"""Entries of this magnitude and more are refused; far beyond what training makes of a network."""

_HEADER: Final = struct.Struct("<IfIIII")
_SMALLEST_STEP: Final = 2.0**-126
_LARGEST_DECODED: Final = 2.0 * LARGEST_ENCODED
_FINEST, _COARSEST = 1e-3, 100.0
_ESCAPE: Final = -128
_DEFLATE_LEVEL: Final = 9


class SealedCodec:
    """About one bit a parameter; see UpdateCodec.

    The payload is not secret by itself: convoy_privacy.sealing encrypts it to the aggregator.
    """

    name = "sealed/1"

    def __init__(self, step_factor: float = 1.0) -> None:
        """Choose the step, in units of the update's root mean square, in 0.001..100."""
        self._step_factor = _checked(step_factor)

    def encode(self, update_N: Float32Vector) -> bytes:
        """The payload for a finite update, float32, shape (N,); see `encode_sparse`."""
        return encode_sparse(update_N, self._step_factor)

    def decode(self, payload: memoryview, parameter_count: int) -> Float32Vector:
        """One update, for aggregation that looks at each; see `decode_sparse`."""
        return decode_sparse(payload, parameter_count)

    def payload_limit(self, parameter_count: int) -> int:
        """The most bytes a payload for so many parameters may have."""
        return payload_limit(parameter_count)

    def accumulator(self, parameter_count: int) -> "SealedAccumulator":
        """An empty sum."""
        return SealedAccumulator(parameter_count)


class SealedAccumulator(WeightedSum):
    """Weighted sum of payloads in float32, in the order of arrival; see UpdateAccumulator."""

    def add(self, payload: memoryview, weight: float) -> None:
        """Add weight times the update, or leave the sum as it is.

        Raises:
            CorruptPayloadError: The payload is not what `encode_sparse` writes.
        """
        self.add_vector(decode_sparse(payload, self.parameter_count), weight)


def encode_sparse(update_N: Float32Vector, step_factor: float) -> bytes:
    """The payload for an update.

    Args:
        update_N: float32, shape (N,).
        step_factor: Step in units of the update's root mean square, in 0.001..100.

    Raises:
        InvalidUpdateError: An entry is NaN, infinite or absurdly large.
    """
    step = _step(update_N, _checked(step_factor))
    rounded_N = update_N * np.float32(1.0 / step)
    np.rint(rounded_N, out=rounded_N)
    non_zero_N = rounded_N != 0.0
    values_K = rounded_N[non_zero_N]
    escaped_K = np.abs(values_K) > 127.0
    escaped = values_K[escaped_K].astype("<i4").tobytes()
    values_K[escaped_K] = _ESCAPE
    bitmap = _deflate(np.packbits(non_zero_N).tobytes())
    values = _deflate(values_K.astype(np.int8).tobytes())
    header = _HEADER.pack(
        update_N.size, step, values_K.size, len(escaped) // 4, len(bitmap), len(values)
    )
    return b"".join((header, bitmap, values, escaped))


def decode_sparse(payload: memoryview, parameter_count: int) -> Float32Vector:
    """The update in an untrusted payload, float32, shape (N,); exactly the same on every machine.

    Raises:
        PayloadLengthError: The payload is longer or shorter than its header says, or than any may be.
        CorruptPayloadError: It is not what `encode_sparse` writes for so many parameters.
    """
    _refuse_length(payload, parameter_count)
    stated, step, non_zero, escapes, bitmap_bytes, values_bytes = _HEADER.unpack_from(payload)
    if stated != parameter_count:
        raise CorruptPayloadError(f"expected {parameter_count} parameters, got {stated}")
    if not _SMALLEST_STEP <= step < math.inf:
        raise CorruptPayloadError(f"step must be positive and finite, got {step}")
    if not escapes <= non_zero <= parameter_count:
        raise CorruptPayloadError(
            f"{escapes} escaped of {non_zero} values of {parameter_count} parameters cannot be"
        )
    values_at = _HEADER.size + bitmap_bytes
    escaped_at = values_at + values_bytes
    if payload.nbytes != escaped_at + 4 * escapes:
        raise PayloadLengthError(escaped_at + 4 * escapes, payload.nbytes)

    bitmap = _inflate(payload[_HEADER.size : values_at], -(-parameter_count // 8), "bitmap")
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8))
    if int(np.count_nonzero(bits)) != non_zero or bits[parameter_count:].any():
        raise CorruptPayloadError(f"the bitmap does not mark {non_zero} of {parameter_count}")
    bytes_K = np.frombuffer(_inflate(payload[values_at:escaped_at], non_zero, "values"), np.int8)
    if not bytes_K.all():
        raise CorruptPayloadError("a value marked as non-zero is zero")
    escaped_K = bytes_K == _ESCAPE
    escaped_E = np.frombuffer(payload[escaped_at:], "<i4").astype(np.int64)
    if int(np.count_nonzero(escaped_K)) != escapes or (np.abs(escaped_E) <= 127).any():
        raise CorruptPayloadError("the escaped values do not match their marks")

    values_K = bytes_K.astype(np.float32)
    values_K[escaped_K] = escaped_E
    peak = float(np.abs(values_K).max(initial=0.0))
    if not peak * step < _LARGEST_DECODED:
        raise CorruptPayloadError("the payload holds absurdly large values")
    values_K *= np.float32(step)
    update_N = np.zeros(parameter_count, np.float32)
    update_N[bits[:parameter_count].view(np.bool_)] = values_K
    return update_N


def payload_limit(parameter_count: int) -> int:
    """The most bytes that `encode_sparse` writes: every value non-zero and escaped, none deflatable."""
    bitmap_bytes = -(-parameter_count // 8)
    return (
        _HEADER.size
        + _deflated_limit(bitmap_bytes)
        + _deflated_limit(parameter_count)
        + 4 * parameter_count
    )


def _checked(step_factor: float) -> float:
    if not _FINEST <= step_factor <= _COARSEST:
        raise ValueError(f"step factor must be in {_FINEST}..{_COARSEST:g}, got {step_factor}")
    return step_factor


def _step(update_N: Float32Vector, step_factor: float) -> float:
    """A float32; at least the smallest normal one, so that its reciprocal is finite."""
    peak = max(float(update_N.max(initial=0.0)), -float(update_N.min(initial=0.0)))
    # NaN fails the comparison too.
    if not peak < LARGEST_ENCODED:
        raise InvalidUpdateError("the update holds NaN, infinite or absurdly large values")
    square = float(np.einsum("i,i->", update_N, update_N, dtype=np.float64))
    root_mean_square = math.sqrt(square / max(update_N.size, 1))
    return float(np.float32(max(step_factor * root_mean_square, _SMALLEST_STEP)))


def _refuse_length(payload: memoryview, parameter_count: int) -> None:
    if payload.nbytes < _HEADER.size:
        raise PayloadLengthError(_HEADER.size, payload.nbytes)
    if payload.nbytes > payload_limit(parameter_count):
        raise PayloadLengthError(payload_limit(parameter_count), payload.nbytes)


def _deflate(section: bytes) -> bytes:
    compressor = zlib.compressobj(_DEFLATE_LEVEL, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
    return compressor.compress(section) + compressor.flush()


def _deflated_limit(section_bytes: int) -> int:
    """Deflate stores what it cannot make smaller, with 5 bytes for every 16 kB or more."""
    return section_bytes + section_bytes // 1000 + 64


def _inflate(section: memoryview, expected_bytes: int, name: str) -> bytes:
    """The whole section and nothing beside it; never more than one byte beyond what is expected."""
    decompressor = zlib.decompressobj(-15)
    try:
        inflated = decompressor.decompress(section, expected_bytes + 1)
    except zlib.error as error:
        raise CorruptPayloadError(f"the {name} section is not deflated data: {error}") from error
    if len(inflated) != expected_bytes or not decompressor.eof or decompressor.unused_data:
        raise CorruptPayloadError(f"the {name} section does not hold {expected_bytes} bytes")
    return inflated
