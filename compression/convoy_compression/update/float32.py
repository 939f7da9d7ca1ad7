"""The plain codec: N float32 values, little-endian, four bytes each; nothing is lost.

The server reads each payload in place, twice: once to refuse NaN, infinite and absurd values before
the sum is touched, once to add. Both passes run at the speed of memory on one thread
(benchmarks/compare_flower_aggregation.py); the check takes 1.5 times as long where the payload does
not start at a multiple of four bytes.

Checking and adding block by block in the cache would save about a tenth, but an update that turns out
bad at its end must leave no trace, and rounding cannot be undone. Keeping what was there before costs
more than the second reading, and an update of memory: 1.6 times the time with an undo copy, 1.2 times
with a second sum.
"""

# Shapes: N parameters, R rows of L parameters each.

import math
import warnings
from typing import Final

import numpy as np
import torch

from convoy_compression.errors import InvalidUpdateError, PayloadLengthError
from convoy_compression.update.one_thread import one_thread
from convoy_compression.update.vector import Float32Vector

LARGEST_SURELY_ACCEPTED: Final = 2.0**48
"""Entries up to this magnitude are accepted."""
SMALLEST_SURELY_REFUSED: Final = 2.0**70
"""Entries from this magnitude on are refused, like NaN: 2**30 of them times a weight of 2**27 still
add up to a finite float32."""

_ROW: Final = 8192
_SCALE: Final = 2.0**60


class Float32Codec:
    """Four bytes a parameter."""

    name = "float32/1"

    def encode(self, update_N: Float32Vector) -> bytes:
        """The payload for a finite update, float32, shape (N,)."""
        return np.ascontiguousarray(update_N, "<f4").tobytes()

    def payload_limit(self, parameter_count: int) -> int:
        """Exactly four bytes a parameter."""
        return 4 * parameter_count

    def accumulator(self, parameter_count: int) -> "Float32Accumulator":
        """An empty sum."""
        return Float32Accumulator(parameter_count)


class Float32Accumulator:
    """Weighted sum in float32, in the order of arrival; see UpdateAccumulator."""

    def __init__(self, parameter_count: int) -> None:
        # numpy asks Linux for huge pages: half the cost of the first touch.
        self._sum_N = torch.from_numpy(np.zeros(parameter_count, np.float32))
        self._scale_L = torch.full((_ROW,), _SCALE)
        self._count = 0
        self._total_weight = 0.0

    @property
    def count(self) -> int:
        """Updates in the sum."""
        return self._count

    @property
    def total_weight(self) -> float:
        """Sum of their weights."""
        return self._total_weight

    def add(self, payload: memoryview, weight: float) -> None:
        """Add weight times the update, or leave the sum as it is, to the last bit.

        Raises:
            PayloadLengthError: The payload is not four bytes a parameter.
            InvalidUpdateError: An entry is NaN, infinite or absurdly large.
        """
        if not 0.0 < weight <= 2.0**27:
            raise ValueError(f"weight must be in (0, 2**27], got {weight}")
        expected_bytes = 4 * self._sum_N.numel()
        if payload.nbytes != expected_bytes:
            raise PayloadLengthError(expected_bytes, payload.nbytes)
        update_N = _view(payload)
        with one_thread():
            _refuse_absurd(update_N, self._scale_L)
            self._sum_N.add_(update_N, alpha=weight)
        self._count += 1
        self._total_weight += weight

    def mean(self) -> Float32Vector:
        """The weighted mean, float32, shape (N,); ends the accumulator's life.

        Raises:
            ValueError: Nothing was added.
        """
        if not self._count:
            raise ValueError("the mean of no updates does not exist")
        with one_thread():
            mean_N = self._sum_N.div_(self._total_weight)
        return mean_N.numpy()


def _refuse_absurd(update_N: torch.Tensor, scale_L: torch.Tensor) -> None:
    """Refuse NaN, infinite and absurdly large entries at the speed of reading.

    One matrix-vector product reads several rows at once, which one core does 1.7 times faster than
    a plain sum. Every entry is multiplied by 2**60, so whatever could overflow the round's sum later
    overflows here, and NaN and infinity stay what they are.
    """
    whole = update_N.numel() // _ROW * _ROW
    sums_R = torch.mv(update_N[:whole].view(-1, _ROW), scale_L)
    rest = update_N[whole:]
    total = float(sums_R.abs().amax()) if whole else 0.0
    tail = float(rest.dot(scale_L[: rest.numel()]))
    if not (math.isfinite(total) and math.isfinite(tail)):
        raise InvalidUpdateError("the update holds NaN, infinite or absurdly large values")


def _view(payload: memoryview) -> torch.Tensor:
    """The payload as float32, shape (N,), in place; never written to."""
    if not payload.nbytes:
        return torch.zeros(0)
    with warnings.catch_warnings():
        # torch has no read-only tensors and says so; ours is only ever an operand.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(payload, dtype=torch.float32)
