"""Half precision: N float16 values, little-endian, two bytes each; hides nothing, rounds to 11 bits."""

# Shapes: N parameters.

from typing import Final

import numpy as np

from convoy_compression.errors import InvalidUpdateError, PayloadLengthError
from convoy_compression.update.vector import Float32Vector
from convoy_compression.update.weighted_sum import WeightedSum

LARGEST: Final = 65_504.0
"""The largest float16; an update beyond it is refused, not cut off."""


class Float16Codec:
    """Two bytes a parameter; see UpdateCodec."""

    name = "float16/1"

    def encode(self, update_N: Float32Vector) -> bytes:
        """The payload for an update, float32, shape (N,).

        Raises:
            InvalidUpdateError: An entry is NaN or beyond what float16 holds.
        """
        peak = max(float(update_N.max(initial=0.0)), -float(update_N.min(initial=0.0)))
        # NaN fails the comparison too.
        if not peak <= LARGEST:
            raise InvalidUpdateError(f"float16 holds values up to {LARGEST:g}, got {peak:g}")
        return update_N.astype("<f2").tobytes()

    def decode(self, payload: memoryview, parameter_count: int) -> Float32Vector:
        """One update from an untrusted payload, float32, shape (N,).

        Raises:
            PayloadLengthError: The payload is not two bytes a parameter.
            InvalidUpdateError: An entry is NaN or infinite.
        """
        if payload.nbytes != 2 * parameter_count:
            raise PayloadLengthError(2 * parameter_count, payload.nbytes)
        update_N = np.frombuffer(payload, "<f2").astype(np.float32)
        if not np.isfinite(update_N).all():
            raise InvalidUpdateError("the update holds NaN or infinite values")
        return update_N

    def payload_limit(self, parameter_count: int) -> int:
        """Exactly two bytes a parameter."""
        return 2 * parameter_count

    def accumulator(self, parameter_count: int) -> "Float16Accumulator":
        """An empty sum."""
        return Float16Accumulator(parameter_count)


class Float16Accumulator(WeightedSum):
    """Weighted sum in float32, in the order of arrival; see UpdateAccumulator."""

    def add(self, payload: memoryview, weight: float) -> None:
        """Add weight times the update, or leave the sum as it is.

        Raises:
            PayloadLengthError: The payload is not two bytes a parameter.
            InvalidUpdateError: An entry is NaN or infinite.
        """
        self.add_vector(Float16Codec().decode(payload, self.parameter_count), weight)
