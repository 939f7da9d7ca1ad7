"""Integer noise that vehicles add piece by piece: Skellam, the difference of two Poisson numbers.

Source: Agarwal, Kairouz & Liu, "The Skellam mechanism for differentially private federated learning",
NeurIPS 2021. The sum of Skellam numbers is a Skellam number, and variances add: no vehicle knows the noise
of the sum.

Sampling is a look-up: 64 random bits in the table of the cumulative distribution. In the table a
probability is off by at most 2^-65, and relatively by about 1e-13 (variance 2500): in one vehicle's million
numbers of a round the first adds at most 3e-11 to delta, the second 2e-7 to epsilon. Probabilities come from
the backward recurrence of Bessel functions (Abramowitz & Stegun 9.6.26, Miller's method):

    P(k) = e^-v I_k(v)        v: variance;  I_k / I_(k-1) = 1 / (2k / v + I_(k+1) / I_k)
"""

# Shapes: P padded lanes.

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

MIN_VARIANCE: Final = 1e-6
MAX_VARIANCE: Final = 2.0**28
"""A standard deviation of 2^14 steps: no sum modulo 2^16 has room for more."""

_MAX_TABLE_VARIANCE: Final = 2.0**24
"""Of one table, which then has 70,000 entries and stays in a core's cache; beyond it numbers are added up."""
_BLOCK: Final = 1 << 15


def share_of_variance(
    total_variance: float, minimum_survivors: int, *, colluders: int = 0
) -> float:
    """What each vehicle adds, so that the survivors' noise is enough.

    Who is lost takes its noise along. Of any `minimum_survivors` vehicles the noise has at least the wanted
    variance; more of them add more than that. So the minimum must be what the protocol enforces: the
    unmasking threshold, or the minimum cohort if that is larger.

    Args:
        total_variance: Wanted in the sum, in squared steps.
        minimum_survivors: Updates without which there is no sum.
        colluders: Vehicles that may tell the server their noise; the others make up for it.

    Raises:
        ValueError: Nobody would be left to add noise.
    """
    if not 0 <= colluders < minimum_survivors:
        raise ValueError(
            f"of {minimum_survivors} survivors {colluders} tell their noise: nobody is left to hide behind"
        )
    return total_variance / (minimum_survivors - colluders)


def skellam_noise(variance: float, count: int, random: Callable[[int], bytes]) -> NDArray[np.int64]:
    """Independent Skellam numbers of mean 0.

    Args:
        variance: In MIN_VARIANCE..MAX_VARIANCE. Above 2^24 each number is the sum of several of equal shares
            of the variance.
        count: P, how many.
        random: Gives that many unpredictable bytes, each call new ones: os.urandom, or a key stream where
            the same key shall give the same noise. Such a key never leaves the vehicle; above all it does
            not follow from a seed that peers hold shares of, or the noise could be taken off again.

    Returns:
        int64, shape (P,).

    Raises:
        ValueError: The variance or the count is out of range.
    """
    if not MIN_VARIANCE <= variance <= MAX_VARIANCE:
        raise ValueError(f"variance must be in {MIN_VARIANCE}..{MAX_VARIANCE}, got {variance}")
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    parts = math.ceil(variance / _MAX_TABLE_VARIANCE)
    cumulative = _cumulative_table(variance / parts)
    smallest = -(len(cumulative) // 2)
    noise_P = np.full(count, parts * smallest, np.int64)
    for start in range(0, count, _BLOCK):
        block = noise_P[start : start + _BLOCK]
        for _ in range(parts):
            uniform = np.frombuffer(random(8 * block.size), "<u8")
            block += np.searchsorted(cumulative, uniform, side="right")
    return noise_P


def _cumulative_table(variance: float) -> NDArray[np.uint64]:
    """2^64 P(X <= k) for k = -M..M-1; at M it would be 2^64, which no 64-bit number reaches."""
    # Beyond 12 standard deviations (and 60, where these are few) every weight is 0.
    ratios = np.empty(math.ceil(12.0 * math.sqrt(variance)) + 60)
    ratio = 0.0
    for k in range(len(ratios), 0, -1):
        ratio = 1.0 / (2.0 * k / variance + ratio)
        ratios[k - 1] = ratio
    relative = np.cumprod(ratios)  # P(k) / P(0), k = 1..
    probabilities = relative / (1.0 + 2.0 * math.fsum(relative))
    weights = np.rint(probabilities * 2.0**64).astype(np.uint64)
    weights = weights[: max(1, np.count_nonzero(weights))]
    # What is left of 2^64 is the weight of zero. Symmetric to the last bit: the noise has no bias.
    centre = np.uint64((1 << 64) - 2 * int(weights.sum(dtype=np.uint64)))
    return np.cumsum(np.concatenate([weights[::-1], [centre], weights[:-1]]), dtype=np.uint64)
