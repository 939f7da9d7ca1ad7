"""The rule that combines a round's items, by name.

Items come in whatever order vehicles answer, and sums of floats depend on it: every rule sees them sorted
by what they are, so that the order of arrival does not change a byte of the result.
"""

# Shapes: K items, N parameters.

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from convoy_server.robust.coordinate_median import MIN_ITEMS as MIN_FOR_COORDINATE_MEDIAN
from convoy_server.robust.coordinate_median import coordinate_median
from convoy_server.robust.geometric_median import MIN_ITEMS as MIN_FOR_GEOMETRIC_MEDIAN
from convoy_server.robust.geometric_median import median_shares
from convoy_server.robust.items import Float32Vector, check_items, combination
from convoy_server.robust.krum import min_items as min_for_krum
from convoy_server.robust.krum import multi_krum_shares, ranking
from convoy_server.robust.norm_bound import bound_norms
from convoy_server.robust.trimmed_mean import min_items as min_for_trimmed_mean
from convoy_server.robust.trimmed_mean import trimmed_mean

Rule = Literal[
    "mean", "geometric_median", "coordinate_median", "trimmed_mean", "krum", "multi_krum"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustConfig:
    """How the items of a round become one update.

    Attributes:
        rule: "mean", "geometric_median", "coordinate_median", "trimmed_mean", "krum" or "multi_krum".
        suspects: Hostile items that trimmed_mean, krum and multi_krum withstand; the others do not use it.
        bound_norms: Scale items down to the median of their norms before they are combined.
    """

    rule: Rule = "mean"
    suspects: int = 1
    bound_norms: bool = False

    def __post_init__(self) -> None:
        if self.suspects < 0:
            raise ValueError(f"suspects must not be negative, got {self.suspects}")


@dataclass(frozen=True, slots=True)
class Combined:
    """What a rule made of a round's items.

    Attributes:
        mean_N: float32, shape (N,).
        shares_K: What share each item has in it, in the order they were handed in; sums to 1. None for the
            rules that decide anew for every coordinate.
    """

    mean_N: Float32Vector
    shares_K: tuple[float, ...] | None

    @property
    def left_out(self) -> tuple[int, ...]:
        """Places of the items that have no share at all."""
        shares_K = self.shares_K or ()
        return tuple(index for index, share in enumerate(shares_K) if share == 0.0)


def combine(
    updates_KN: Sequence[Float32Vector], weights_K: Sequence[float], config: RobustConfig
) -> Combined:
    """Combine single updates (sealed mode) or means of shards (masked mode) by the rule.

    Args:
        updates_KN: K vectors, float32, shape (N,), finite; none is changed.
        weights_K: Positive; of a shard, the summed weight of its vehicles.
        config: Which rule; `min_items` says how many it needs.

    Raises:
        ValueError: Too few items for the rule, or they are not fit to combine.
    """
    check_items(updates_KN, weights_K, min_items(config))
    if config.bound_norms:
        updates_KN = bound_norms(updates_KN)
    order = _canonical_order(updates_KN, weights_K)
    mean_N, shares = _apply(
        [updates_KN[index] for index in order], [weights_K[index] for index in order], config
    )
    if shares is None:
        return Combined(mean_N, None)
    by_place = dict(zip(order, shares, strict=True))
    return Combined(mean_N, tuple(by_place[index] for index in range(len(order))))


def min_items(config: RobustConfig) -> int:
    """Items without which the rule does not apply."""
    if config.rule == "mean":
        return 1
    if config.rule == "geometric_median":
        return MIN_FOR_GEOMETRIC_MEDIAN
    if config.rule == "coordinate_median":
        return MIN_FOR_COORDINATE_MEDIAN
    if config.rule == "trimmed_mean":
        return min_for_trimmed_mean(config.suspects)
    return min_for_krum(config.suspects)


def _apply(
    updates_KN: Sequence[Float32Vector], weights_K: Sequence[float], config: RobustConfig
) -> tuple[Float32Vector, list[float] | None]:
    """The result and the shares, in the order of the items."""
    if config.rule == "coordinate_median":
        return coordinate_median(updates_KN, weights_K), None
    if config.rule == "trimmed_mean":
        return trimmed_mean(updates_KN, weights_K, config.suspects), None
    if config.rule == "geometric_median":
        shares_K = median_shares(updates_KN, weights_K)
    elif config.rule == "multi_krum":
        shares_K = multi_krum_shares(updates_KN, weights_K, config.suspects)
    elif config.rule == "krum":
        shares_K = np.zeros(len(updates_KN))
        shares_K[ranking(updates_KN, config.suspects)[0]] = 1.0
    else:
        shares_K = np.array(weights_K, np.float64)
        shares_K /= shares_K.sum()
    return combination(updates_KN, shares_K), shares_K.tolist()


def _canonical_order(updates_KN: Sequence[Float32Vector], weights_K: Sequence[float]) -> list[int]:
    """An order of the items that depends on what they are alone."""

    def identity(index: int) -> tuple[bytes, float]:
        return hashlib.sha256(np.ascontiguousarray(updates_KN[index]).data).digest(), weights_K[
            index
        ]

    return sorted(range(len(updates_KN)), key=identity)
