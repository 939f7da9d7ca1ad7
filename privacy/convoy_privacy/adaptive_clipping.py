"""A clipping bound that follows a quantile of the fleet's update norms.

Source: Andrew et al., "Differentially private learning with adaptive clipping", NeurIPS 2021,
section 2.1 (geometric update) and theorem 1 (how the noise is divided).

    C <- C * exp(-eta * (b - gamma))     b: share of updates that C left as they are, gamma: wanted share

Only the count of clipped updates is needed, so it works on a masked sum; with differential privacy
the count carries noise of its own.
"""

import math
from typing import Final

MIN_CLIP_NORM: Final = 1e-6
MAX_CLIP_NORM: Final = 1e6
"""In parameter units: outside of these a model neither learns nor survives."""


def next_clip_norm(
    clip_norm: float, clipped_share: float, quantile: float, learning_rate: float
) -> float:
    """The bound of the next round.

    Args:
        clip_norm: Bound of this round, in parameter units, positive.
        clipped_share: Share of this round's updates that were longer. Noise, or a vehicle that lies in
            its counter, may take it out of [0, 1]; it then counts as the nearer end, so that no round
            changes the bound by more than a factor exp(learning_rate).
        quantile: Wanted share of updates left as they are, in (0, 1).
        learning_rate: eta, positive; the paper uses 0.2.

    Returns:
        In MIN_CLIP_NORM..MAX_CLIP_NORM.

    Raises:
        ValueError: clipped_share is NaN, or a setting is out of range.
    """
    if not 0.0 < clip_norm < math.inf or not 0.0 < learning_rate < math.inf:
        raise ValueError(
            f"expected a positive bound and learning rate, got {clip_norm} and {learning_rate}"
        )
    if not 0.0 < quantile < 1.0 or math.isnan(clipped_share):
        raise ValueError(f"expected a quantile in (0, 1), got {quantile}; share {clipped_share}")
    untouched_share = 1.0 - min(1.0, max(0.0, clipped_share))
    # Clamped before exp: a learning rate of a thousand must not overflow.
    step = max(-50.0, min(50.0, -learning_rate * (untouched_share - quantile)))
    return min(MAX_CLIP_NORM, max(MIN_CLIP_NORM, clip_norm * math.exp(step)))


def update_noise_multiplier(noise_multiplier: float, count_stddev: float) -> float:
    """What is left for the updates when the clipped count takes its part of the noise.

    A vehicle changes the count by at most 1 and the scaled update by at most 1; both noised releases
    together are as private as one with `noise_multiplier` (of Gaussian noise; what Skellam noise comes to,
    dp_accountant adds up by itself). The paper shifts the count by 1/2, which
    halves that 1; a counter in a masked sum is 0 or 1.

    Args:
        noise_multiplier: Of the round as a whole, positive.
        count_stddev: Standard deviation of the noise in the count, in vehicles; the paper takes a
            twentieth of the cohort.

    Raises:
        ValueError: The count's noise alone reveals more than the whole round may.
    """
    if not 0.0 < noise_multiplier < count_stddev:
        raise ValueError(
            f"a count with noise {count_stddev} cannot be part of a round with noise multiplier "
            f"{noise_multiplier}: give the count more noise than that"
        )
    return 1.0 / math.sqrt(noise_multiplier**-2 - count_stddev**-2)
