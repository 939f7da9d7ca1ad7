"""The geometric median of updates: the point with the smallest sum of distances to all of them.

Source: Pillutla, Kakade & Harchaoui, "Robust aggregation for federated learning" (RFA), IEEE TSP 2022,
algorithm 1: Weiszfeld's iteration, smoothed so that it does not divide by a distance of zero.

    beta_k <- w_k / max(nu, |v - x_k|)
    v      <- sum beta_k x_k / sum beta_k

It holds while hostile items have less than half of the summed weight, and it works on what a secure
sum shows, the means of shards: attackers must then sit in that many shards. Without an attack it stays
close to the mean. Weights are claims: where a vehicle can state its own, give them all the same.
"""

# Shapes: K items, N parameters.

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convoy_server.robust.items import (
    Float32Vector,
    Float64Vector,
    check_items,
    combination,
    inner_products,
)

MIN_ITEMS: Final = 3
"""Of two items each is as good a median as the other."""

_MAX_ITERATIONS: Final = 500
_SMOOTHING: Final = 1e-6
_TOLERANCE: Final = 1e-6


def geometric_median(
    updates_KN: Sequence[Float32Vector], weights_K: Sequence[float]
) -> Float32Vector:
    """The weighted geometric median, float32, shape (N,).

    Args:
        updates_KN: At least three vectors, float32, shape (N,), finite.
        weights_K: Positive.

    Raises:
        ValueError: Too few items, or they are not fit to combine.
    """
    return combination(updates_KN, median_shares(updates_KN, weights_K))


def median_shares(updates_KN: Sequence[Float32Vector], weights_K: Sequence[float]) -> Float64Vector:
    """What share each item has in the median, float64, shape (K,); sums to 1, never negative.

    An item far from the others has a small one.

    Raises:
        ValueError: As `geometric_median`.
    """
    checked_K = check_items(updates_KN, weights_K, MIN_ITEMS)
    return _weiszfeld(inner_products(updates_KN), checked_K / checked_K.sum())


def _weiszfeld(gram_KK: NDArray[np.float64], weights_K: Float64Vector) -> Float64Vector:
    """The iteration on shares instead of vectors: v = sum share_k x_k never leaves their span.

    It starts at v = 0, a point that no attacker can move. From there a long item's share is as small as
    the item is long, so that products with its huge entries of the matrix stay moderate and nothing is
    lost to cancellation, as it would be starting from the mean.
    """
    squares_K = np.diagonal(gram_KK)
    # Where most items are zero, so is every distance between them: quotients must stay finite.
    nu = max(_SMOOTHING * float(np.median(np.sqrt(squares_K))), 1e-60)
    shares_K = np.zeros_like(weights_K)
    for _ in range(_MAX_ITERATIONS):
        product_K = gram_KK @ shares_K
        squared_distances_K = squares_K - 2.0 * product_K + shares_K @ product_K
        distances_K = np.maximum(np.sqrt(np.maximum(squared_distances_K, 0.0)), nu)
        beta_K = weights_K / distances_K
        next_K = beta_K / beta_K.sum()
        step_K, shares_K = next_K - shares_K, next_K
        # How far v moved, against how far the items are: the giants' distances must not count in that.
        moved = float(np.sqrt(max(0.0, step_K @ gram_KK @ step_K)))
        if moved <= _TOLERANCE * float(np.median(distances_K)):
            break
    return shares_K
