"""The step of the masked codec: small enough for little rounding, large enough for the sum to fit.

After the rotation a coordinate of the sum is close to normal with deviation sigma; a range of z
deviations to either side, cut into 2**m steps, loses one in 47,000 coordinates at z = 4.25. What they
add to the squared error is 0.15 % of the sum's square; a wider range would cost more in rounding: with
z = 4.5 that grows by 12 %. The first sum of a run must do with a bound; every later one follows the sum
before it, with some slack.
"""

import math
from typing import Final

DEVIATIONS: Final = 4.25
"""z."""


def step_for(sigma: float, modulus_bits: int) -> float:
    """The step with which sums of deviation sigma fit the modulus."""
    if not 0.0 < sigma < math.inf:
        raise ValueError(f"sigma must be positive and finite, got {sigma}")
    return 2.0 * DEVIATIONS * sigma / float(1 << modulus_bits)


def first_sigma(norm_bound: float, padded_count: int) -> float:
    """Deviation of a sum for each unit of weight, if all updates were as long as the bound and alike."""
    return norm_bound / math.sqrt(padded_count)


def signal_sigma(rms: float, count: int, step: float) -> float:
    """Deviation of a sum's coordinate without the part that rounding added.

    Rounding `count` updates adds count * step**2 / 12 where they are wide against the step (half of what
    independent dithers would add), and less where they are narrow. Left in, a coarse step would call for
    a coarser one next time; taken out whole, a coarse step for one too fine, which overflows. Half of it,
    and never more than half of the square, settles at once for every modulus of 2 bits and more.
    """
    return math.sqrt(max(rms**2 - count * step**2 / 24.0, rms**2 / 2.0))


def next_sigma(sigma: float, slack: float) -> float:
    """Deviation to be ready for, for each unit of weight, after a sum that had `sigma`.

    A sum of nothing (all updates zero) leaves room for the smallest step there is.
    """
    return max(sigma * slack, 1e-20)
