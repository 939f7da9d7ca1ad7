"""The median of every coordinate by itself.

Source: Yin et al., "Byzantine-robust distributed learning", ICML 2018, algorithm 1, option I.

Every coordinate of the result lies between honest values while hostile items have less than half of
the summed weight. It ignores how coordinates go together: without an attack it is further from the
mean than the geometric median, most so where items differ much.
"""

# Shapes: K items, N parameters, B coordinates of a block.

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convoy_server.robust.items import Float32Vector, Float64Vector, blocks, check_items

MIN_ITEMS: Final = 3
"""The median of two is their mean."""


def coordinate_median(
    updates_KN: Sequence[Float32Vector], weights_K: Sequence[float]
) -> Float32Vector:
    """The weighted median of each coordinate, float32, shape (N,).

    It is the value up to which half of the weight lies; where exactly half lies up to a value, the middle
    between that and the next. With equal weights: the ordinary median.

    Args:
        updates_KN: At least three vectors, float32, shape (N,), finite.
        weights_K: Positive.

    Raises:
        ValueError: Too few items, or they are not fit to combine.
    """
    checked_K = check_items(updates_KN, weights_K, MIN_ITEMS)
    result_N = np.empty(updates_KN[0].shape, np.float32)
    for where, block_KB in blocks(updates_KN):
        if (checked_K == checked_K[0]).all():
            result_N[where] = np.median(block_KB, axis=0)
        else:
            result_N[where] = _weighted_median(block_KB, checked_K)
    return result_N


def _weighted_median(block_KB: NDArray[np.float64], weights_K: Float64Vector) -> Float64Vector:
    order_KB = np.argsort(block_KB, axis=0, kind="stable")
    sorted_KB = np.take_along_axis(block_KB, order_KB, axis=0)
    # Sums of the same weights differ in their last bits from order to order: half is half within that.
    below_KB = np.cumsum(weights_K[order_KB], axis=0) / weights_K.sum() - 0.5
    lower_B = np.argmax(below_KB >= -1e-12, axis=0)
    upper_B = np.argmax(below_KB > 1e-12, axis=0)
    columns_B = np.arange(block_KB.shape[1])
    middle_B: Float64Vector = (sorted_KB[lower_B, columns_B] + sorted_KB[upper_B, columns_B]) / 2.0
    return middle_B
