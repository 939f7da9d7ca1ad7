"""How much one vehicle can change a sum of rounded updates.

Source: Kairouz, Liu & Steinke, "The distributed discrete Gaussian mechanism for federated learning with
secure aggregation", ICML 2021, section 3 (conditional rounding); Agarwal, Kairouz & Liu, NeurIPS 2021,
section 4.

A clipped update of norm C over step D has norm C / D before rounding. Rounding every coordinate up or down
adds at most 1/4 to the expected square of each:

    l2^2 = (C / D)^2 + P / 4 + a little,      l1 = min(sqrt(P) * l2, l2^2)

By chance a rounded vector may be longer; the vehicle then shortens its update and rounds again, so that the
bound holds always. The 1/4 is cheap while the step is small against C / sqrt(P), and rules otherwise.
"""

# Shapes: N parameters, P padded lanes.

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Float32Vector = NDArray[np.float32]
Lanes = NDArray[np.unsignedinteger[Any]]

_SLACK: Final = 4.0
"""Of the paper's sqrt(2 ln(1 / beta)): a first rounding is too long with probability e^-8."""
_ATTEMPTS: Final = 32


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How far one vehicle can move the sum of a shard, in steps.

    Attributes:
        l1: In the 1-norm.
        l2: In the 2-norm.
    """

    l1: float
    l2: float

    def __post_init__(self) -> None:
        if not (0.0 < self.l1 < math.inf and 0.0 < self.l2 < math.inf):
            raise ValueError(f"a sensitivity is positive and finite, got {self.l1} and {self.l2}")

    def noise_variance(self, noise_multiplier: float) -> float:
        """Of the whole sum, in squared steps: so many l2 are the noise's standard deviation."""
        return (noise_multiplier * self.l2) ** 2


def rounded_sensitivity(clip_norm: float, step: float, padded_count: int) -> Sensitivity:
    """The bound that a vehicle keeps to.

    Args:
        clip_norm: Bound on the update's 2-norm, in parameter units, positive.
        step: Of the quantizer, in parameter units, positive.
        padded_count: P, coordinates that are rounded, at least 1.

    Raises:
        ValueError: One of them is out of range.
    """
    if not 0.0 < clip_norm < math.inf or not 0.0 < step < math.inf or padded_count < 1:
        raise ValueError(f"no clip norm, step and count: {clip_norm}, {step}, {padded_count}")
    norm, root = clip_norm / step, math.sqrt(padded_count)
    l2 = math.sqrt(norm**2 + padded_count / 4.0 + _SLACK * (norm + root / 2.0))
    # Whatever is rounded, no coordinate moves by more than 1.
    l2 = min(l2, norm + root)
    return Sensitivity(l1=min(root * l2, l2**2), l2=l2)


def bounded_lanes(
    update_N: Float32Vector,
    quantize: Callable[[Float32Vector], Lanes],
    modulus_bits: int,
    bound: Sensitivity,
) -> Lanes:
    """Round an update so that it keeps to the bound.

    Args:
        update_N: float32, shape (N,), clipped.
        quantize: Rotates, rounds and takes modulo 2^modulus_bits; the same update gives the same lanes, and
            zero gives zeros.
        modulus_bits: Of the lanes.
        bound: From `rounded_sensitivity`.

    Returns:
        Lanes, shape (P,): of the update, or of a shorter one of the same direction.
    """
    for _ in range(_ATTEMPTS):
        lanes_P = quantize(update_N)
        # The bound on the 1-norm follows: integers are no larger than their squares.
        if centred_norm(lanes_P, modulus_bits) <= bound.l2:
            return lanes_P
        # More than it takes, most likely: each attempt costs a rotation.
        update_N = update_N * np.float32(0.9)
    return quantize(np.zeros_like(update_N))


def centred_norm(lanes_P: Lanes, modulus_bits: int) -> float:
    """The 2-norm of the lanes, each taken for the number nearest to zero that it stands for.

    Sums are published modulo 2^modulus_bits, where all numbers that a lane stands for do the same.
    """
    half = 1 << (modulus_bits - 1)
    centred_P = ((lanes_P.astype(np.int32) + half) & (2 * half - 1)) - half
    return math.sqrt(float(np.einsum("i,i->", centred_P, centred_P, dtype=np.float64)))
