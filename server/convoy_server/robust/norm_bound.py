"""No item counts for more than its length allows: each is scaled down to a common bound.

Source: Sun et al., "Can you really backdoor federated learning?", arXiv:1911.07963 (2019), section 4;
the median of the norms as the bound holds while fewer than half of the items are hostile.

By itself it only makes an attack slower: f of K items still pull by f / K of the bound. It stands before
another rule.
"""

# Shapes: K items, N parameters.

import math
from collections.abc import Sequence

import numpy as np

from convoy_server.robust.items import Float32Vector


def bound_norms(
    updates_KN: Sequence[Float32Vector], bound: float | None = None
) -> list[Float32Vector]:
    """The items, with those that are too long replaced by shorter ones of the same direction.

    Args:
        updates_KN: Vectors, float32, shape (N,), finite; none is changed.
        bound: Largest 2-norm, in parameter units, positive; None takes the median of their norms.

    Returns:
        As many vectors in the same order; one that is short enough is returned itself.

    Raises:
        ValueError: The bound is not positive and finite, or an item is not finite.
    """
    # Squares of float32 numbers in float64 cannot overflow.
    norms = [
        math.sqrt(float(np.einsum("i,i->", update_N, update_N, dtype=np.float64)))
        for update_N in updates_KN
    ]
    if not all(map(math.isfinite, norms)):
        raise ValueError(f"an item holds NaN or infinite values; the norms are {norms}")
    if bound is None:
        bound = float(np.median(norms))
    elif not 0.0 < bound < math.inf:
        raise ValueError(f"the bound must be positive and finite, got {bound}")
    return [
        update_N if norm <= bound else update_N * np.float32(bound / norm)
        for update_N, norm in zip(updates_KN, norms, strict=True)
    ]
