"""Running weighted sum of updates: what all accumulators share that take one payload at a time."""

# Shapes: N parameters.

import numpy as np

from convoy_compression.update.vector import Float32Vector


class WeightedSum:
    """Weighted sum in float32, in the order of arrival."""

    def __init__(self, parameter_count: int) -> None:
        # numpy asks Linux for huge pages: half the cost of the first touch.
        self._sum_N = np.zeros(parameter_count, np.float32)
        self._count = 0
        self._total_weight = 0.0

    @property
    def parameter_count(self) -> int:
        """N."""
        return self._sum_N.size

    @property
    def count(self) -> int:
        """Updates in the sum."""
        return self._count

    @property
    def total_weight(self) -> float:
        """Sum of their weights."""
        return self._total_weight

    def add_vector(self, update_N: Float32Vector, weight: float) -> None:
        """Add weight times the update.

        Args:
            update_N: float32, shape (N,), finite; overwritten.
            weight: In (0, 2**27].
        """
        self._check_weight(weight)
        update_N *= np.float32(weight)
        self._sum_N += update_N
        self._count_in(weight)

    def mean(self) -> Float32Vector:
        """The weighted mean, float32, shape (N,); ends the accumulator's life.

        Raises:
            ValueError: Nothing was added.
        """
        if not self._count:
            raise ValueError("the mean of no updates does not exist")
        self._sum_N /= np.float32(self._total_weight)
        return self._sum_N

    @staticmethod
    def _check_weight(weight: float) -> None:
        if not 0.0 < weight <= 2.0**27:
            raise ValueError(f"weight must be in (0, 2**27], got {weight}")

    def _count_in(self, weight: float) -> None:
        self._count += 1
        self._total_weight += weight
