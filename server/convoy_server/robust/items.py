"""The items that a robust rule combines: single updates, or the means of shards of vehicles.

Every rule goes through them a block of coordinates at a time, in float64: besides the K vectors it
needs a few megabytes, and squares of float32 numbers cannot overflow.
"""

# Shapes: K items, N parameters, B coordinates of a block.

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Float32Vector = NDArray[np.float32]
Float64Vector = NDArray[np.float64]

_BLOCK_NUMBERS: Final = 1 << 19


def check_items(
    updates_KN: Sequence[Float32Vector], weights_K: Sequence[float], at_least: int = 1
) -> Float64Vector:
    """The weights as an array, shape (K,), once the items are found fit to combine.

    Args:
        updates_KN: K vectors, float32, shape (N,), finite.
        weights_K: Positive and finite; of a shard, the summed weight of its vehicles.
        at_least: Items that the rule needs.

    Raises:
        ValueError: Too few items, or one that should have been refused when it came in.
    """
    if len(updates_KN) != len(weights_K):
        raise ValueError(f"{len(updates_KN)} updates have {len(weights_K)} weights")
    if len(updates_KN) < at_least:
        raise ValueError(f"the rule needs at least {at_least} items, got {len(updates_KN)}")
    checked_K = np.array(weights_K, np.float64)
    # Bounded, so that neither a sum of weights nor a quotient of two leaves the range of float64.
    if not ((checked_K > 1e-100) & (checked_K < 1e100)).all():
        raise ValueError(f"weights must be positive and finite, got {list(weights_K)}")
    for index, update_N in enumerate(updates_KN):
        if update_N.dtype != np.float32 or update_N.shape != updates_KN[0].shape[:1]:
            raise ValueError(f"item {index} is {update_N.dtype} of shape {update_N.shape}")
        if not np.isfinite(update_N).all():
            raise ValueError(f"item {index} holds NaN or infinite values")
    return checked_K


def blocks(updates_KN: Sequence[Float32Vector]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Consecutive coordinates of all items: where they are, and float64, shape (K, B)."""
    size = updates_KN[0].size
    width = max(1, _BLOCK_NUMBERS // len(updates_KN))
    for start in range(0, size, width):
        where = slice(start, min(size, start + width))
        yield where, np.stack([update_N[where] for update_N in updates_KN]).astype(np.float64)


def combination(updates_KN: Sequence[Float32Vector], shares_K: Float64Vector) -> Float32Vector:
    """The sum of share times item, float32, shape (N,); with shares that sum to 1, a mean."""
    result_N = np.empty(updates_KN[0].shape, np.float32)
    for where, block_KB in blocks(updates_KN):
        # One item after another: a matrix product may add in another order on another machine.
        total_B = shares_K[0] * block_KB[0]
        for share, row_B in zip(shares_K[1:], block_KB[1:], strict=True):
            total_B += share * row_B
        result_N[where] = total_B
    return result_N


def inner_products(updates_KN: Sequence[Float32Vector]) -> NDArray[np.float64]:
    """The inner product of every two items, float64, shape (K, K), symmetric.

    With it, distances between items and to any combination of them cost nothing that grows with N.
    """
    gram_KK = np.zeros((len(updates_KN), len(updates_KN)))
    for _, block_KB in blocks(updates_KN):
        gram_KK += block_KB @ block_KB.T
    return gram_KK
