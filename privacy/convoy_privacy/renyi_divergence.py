"""Renyi differential privacy of Skellam noise, and what drawing the cohort at random adds to it.

All at integer orders alpha >= 2.

Noise: Agarwal, Kairouz & Liu, "The Skellam mechanism for differentially private federated learning",
NeurIPS 2021, corollary 4.1 in units of one step; v: variance, D1 and D2: sensitivity.

    e(alpha) = alpha D2^2 / 2v + min( ((2 alpha - 1) D2^2 + 6 D1) / 4v^2, 3 D1 / 2v )

Poisson sampling at rate q: Zhu & Wang, "Poisson subsampled Renyi differential privacy", ICML 2019,
theorems 5 and 6.

    e'(alpha) = 1 / (alpha - 1) log sum_(l = 0..alpha) C(alpha, l) (1 - q)^(alpha - l) q^l e^((l - 1) e(l))

Their general theorem has a factor 3 before the terms from l = 3 on, for mechanisms where the second of the
two directions, D(without || with), may be the larger one. Noise that is symmetric about 0 needs no such
factor, by the argument of Mironov, Talwar & Zhang, "Renyi differential privacy of the sampled Gaussian
mechanism", arXiv:1908.10530 (2019), theorem 5: x -> d - x exchanges the noise around 0 with that around d.
tests/privacy/test_renyi_divergence.py computes both directions exactly.

Fixed-size sampling: Wang, Balle & Kasiviswanathan, "Subsampled Renyi differential privacy and analytical
moments accountant", AISTATS 2019, theorem 9, for neighbours that differ in one vehicle's data.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from convoy_privacy.rounded_sensitivity import Sensitivity

Divergence = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""e(alpha) of a mechanism at many integer orders."""


def skellam_divergence(
    bound: Sensitivity, variance: float, orders: NDArray[np.int64]
) -> NDArray[np.float64]:
    """e(alpha) of a sum with Skellam noise; `bound` and `variance` in steps and squared steps."""
    alpha = orders.astype(np.float64)
    square = bound.l2**2
    excess = ((2.0 * alpha - 1.0) * square + 6.0 * bound.l1) / (4.0 * variance**2)
    return alpha * square / (2.0 * variance) + np.minimum(excess, 1.5 * bound.l1 / variance)


def poisson_sampled(divergence: Divergence, rate: float, order: int) -> float:
    """e'(alpha) where every vehicle takes part with probability `rate`, independently.

    Args:
        divergence: Of the mechanism with everybody in, whose noise is symmetric about 0.
        rate: q, in (0, 1].
        order: alpha, at least 2.
    """
    terms = np.arange(2, order + 1)
    if rate == 1.0:
        return float(divergence(terms[-1:])[0])
    log_moments = (terms - 1) * divergence(terms)
    # The binomial weights sum to 1: only what each moment has beyond 1 counts, which keeps the digits
    # of a small rate.
    logs = (
        _log_binomials(order)[2:]
        + (order - terms) * math.log1p(-rate)
        + terms * math.log(rate)
        + log_moments
        + np.log(-np.expm1(-log_moments))
    )
    return _log_one_plus_sum_exp(logs) / (order - 1)


def sampled_without_replacement(divergence: Divergence, rate: float, order: int) -> float:
    """e'(alpha) where a fixed number of a known fleet is drawn.

    Args:
        divergence: Of the mechanism with everybody in, for neighbours that differ in one vehicle's data.
        rate: Vehicles drawn over vehicles in the fleet, in (0, 1].
        order: alpha, at least 2.
    """
    terms = np.arange(2, order + 1)
    divergences = divergence(terms)
    logs = (
        _log_binomials(order)[2:]
        + terms * math.log(rate)
        + (terms - 1) * divergences
        + math.log(2.0)
    )
    # The first term is 4 (e^e(2) - 1) instead of 2 e^e(2) where that is less.
    at_two = float(divergences[0])
    logs[0] += min(0.0, math.log(2.0) + math.log(-math.expm1(-at_two)))
    return min(_log_one_plus_sum_exp(logs) / (order - 1), float(divergences[-1]))


def _log_binomials(order: int) -> NDArray[np.float64]:
    """The logarithms of C(order, l) for l = 0..order."""
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, order + 1.0)))])
    return np.asarray(log_factorials[order] - log_factorials - log_factorials[::-1])


def _log_one_plus_sum_exp(logs: NDArray[np.float64]) -> float:
    return float(np.logaddexp.reduce(logs, initial=0.0))
