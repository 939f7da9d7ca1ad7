"""Krum: the items that have the closest company.

Source: Blanchard et al., "Machine learning with adversaries: Byzantine tolerant gradient descent",
NeurIPS 2017, section 4 (Krum) and section 5 (multi-Krum).

    score(k) = sum of the squared distances of item k to its K - f - 2 nearest neighbours

Krum takes the item of the lowest score, multi-Krum the mean of the K - f - 2 lowest. Both hold while no
more than f items are hostile and K >= 2f + 3. Without an attack they are far from the mean, Krum the
furthest: whatever the others have learned is lost. A vehicle whose data is unlike the others' is left
out whether it is hostile or not.
"""

# Shapes: K items, N parameters.

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convoy_server.robust.items import (
    Float32Vector,
    Float64Vector,
    check_items,
    combination,
    inner_products,
)


def krum(
    updates_KN: Sequence[Float32Vector], weights_K: Sequence[float], suspects: int
) -> Float32Vector:
    """A copy of the item of the lowest score, float32, shape (N,); the first of equals.

    Args:
        updates_KN: At least 2 * suspects + 3 vectors, float32, shape (N,), finite.
        weights_K: Positive; they play no part in one item.
        suspects: f, hostile items to withstand.

    Raises:
        ValueError: Too few items, or they are not fit to combine.
    """
    check_items(updates_KN, weights_K, min_items(suspects))
    return updates_KN[int(ranking(updates_KN, suspects)[0])].copy()


def multi_krum(
    updates_KN: Sequence[Float32Vector], weights_K: Sequence[float], suspects: int
) -> Float32Vector:
    """The weighted mean of the K - f - 2 items of the lowest scores, float32, shape (N,).

    Args:
        updates_KN: At least 2 * suspects + 3 vectors, float32, shape (N,), finite.
        weights_K: Positive; they count in the mean, not in the scores.
        suspects: f, hostile items to withstand.

    Raises:
        ValueError: Too few items, or they are not fit to combine.
    """
    return combination(updates_KN, multi_krum_shares(updates_KN, weights_K, suspects))


def multi_krum_shares(
    updates_KN: Sequence[Float32Vector], weights_K: Sequence[float], suspects: int
) -> Float64Vector:
    """What share each item has in multi-Krum's mean, float64, shape (K,); zero where left out.

    Raises:
        ValueError: As `multi_krum`.
    """
    checked_K = check_items(updates_KN, weights_K, min_items(suspects))
    left_out = ranking(updates_KN, suspects)[len(updates_KN) - suspects - 2 :]
    checked_K[left_out] = 0.0
    checked_K /= checked_K.sum()
    return checked_K


def ranking(updates_KN: Sequence[Float32Vector], suspects: int) -> NDArray[np.intp]:
    """Indices of the items, lowest score first, equals in the order they came in; shape (K,)."""
    gram_KK = inner_products(updates_KN)
    squares_K = np.diagonal(gram_KK)
    distances_KK = np.maximum(squares_K[:, None] + squares_K[None, :] - 2.0 * gram_KK, 0.0)
    # Nobody is its own company.
    np.fill_diagonal(distances_KK, np.inf)
    neighbours = len(updates_KN) - suspects - 2
    scores_K = np.sort(distances_KK, axis=1)[:, :neighbours].sum(axis=1)
    return np.argsort(scores_K, kind="stable")


def min_items(suspects: int) -> int:
    """Items that the rule needs.

    Raises:
        ValueError: suspects is negative.
    """
    if suspects < 0:
        raise ValueError(f"suspects must not be negative, got {suspects}")
    return 2 * suspects + 3
