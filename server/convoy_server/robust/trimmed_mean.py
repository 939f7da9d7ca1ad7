"""The mean of every coordinate without its largest and its smallest values.

Source: Yin et al., "Byzantine-robust distributed learning", ICML 2018, algorithm 1, option II.

With `suspects` values cut off at either end, every coordinate of the result lies between honest values
while no more than `suspects` items are hostile. One more, and it can be dragged anywhere.
"""

# Shapes: K items, N parameters, B coordinates of a block.

from collections.abc import Sequence

import numpy as np

from convoy_server.robust.items import Float32Vector, blocks, check_items


def trimmed_mean(
    updates_KN: Sequence[Float32Vector], weights_K: Sequence[float], suspects: int
) -> Float32Vector:
    """The weighted mean of what is left of each coordinate, float32, shape (N,).

    Args:
        updates_KN: At least 2 * suspects + 1 vectors, float32, shape (N,), finite.
        weights_K: Positive; items are cut off by number, whatever they weigh.
        suspects: Values cut off at either end.

    Raises:
        ValueError: Too few items, or they are not fit to combine.
    """
    checked_K = check_items(updates_KN, weights_K, min_items(suspects))
    kept = slice(suspects, len(updates_KN) - suspects)
    result_N = np.empty(updates_KN[0].shape, np.float32)
    for where, block_KB in blocks(updates_KN):
        order_KB = np.argsort(block_KB, axis=0, kind="stable")[kept]
        weights_KB = checked_K[order_KB]
        values_KB = np.take_along_axis(block_KB, order_KB, axis=0)
        mean_B = (weights_KB * values_KB).sum(axis=0) / weights_KB.sum(axis=0)
        # Rounding may take a mean of equal values a bit beyond them.
        result_N[where] = np.clip(mean_B, values_KB[0], values_KB[-1])
    return result_N


def min_items(suspects: int) -> int:
    """Items that the rule needs: something must be left.

    Raises:
        ValueError: suspects is negative.
    """
    if suspects < 0:
        raise ValueError(f"suspects must not be negative, got {suspects}")
    return 2 * suspects + 1
