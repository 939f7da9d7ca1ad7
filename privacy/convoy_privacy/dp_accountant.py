"""What a run of many rounds has told about any one vehicle: (epsilon, delta), client level.

Source: Mironov, "Renyi differential privacy", CSF 2017 (rounds add up order by order); the conversion to
(epsilon, delta) is that of the package dp-accounting (Canonne, Kamath & Steinke, NeurIPS 2020). The bounds
of one round: renyi_divergence.py.

Neighbouring fleets: one vehicle's updates are what they are, or are all zero (Poisson sampling, or everybody
takes part); or they are arbitrary others (fixed-size sampling). The two do not mix in one run.

Epsilon speaks of those who see the models and the noised sums. It does not cover what travels beside the
sum, nor does sampling help against someone who sees who is drawn, as the server does.
"""

import enum
import functools
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from convoy_privacy.errors import NoEpsilonError
from convoy_privacy.renyi_divergence import (
    poisson_sampled,
    sampled_without_replacement,
    skellam_divergence,
)
from convoy_privacy.rounded_sensitivity import Sensitivity
from convoy_protos.errors import UsageError

ORDERS: Final = (
    *range(2, 65),
    *range(68, 129, 4),
    *(160, 192, 256, 320, 384, 512, 768, 1024),
)
"""Renyi orders that are kept account of."""

_COUNT_SENSITIVITY: Final = Sensitivity(l1=1.0, l2=1.0)


class Sampling(enum.Enum):
    """How a round's vehicles came to take part."""

    POISSON = "poisson"
    """Each by its own chance, unknown to those whom epsilon speaks of."""
    WITHOUT_REPLACEMENT = "without_replacement"
    """A fixed number of a fixed fleet, unknown to those whom epsilon speaks of."""
    EVERYBODY = "everybody"
    """Whoever took part may be known: no amplification. True of any selection."""
    UNKNOWN = "unknown"
    """Somebody chose, and how depends on the vehicles' data for all that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFacts:
    """What happened, or is to happen, in one round; of several shards, in the one with the least noise.

    Attributes:
        sensitivity: What one vehicle can change, in steps; None where updates are not clipped.
        noise_variance: Of the sum over any `minimum_survivors` vehicles, in squared steps; 0: no noise.
        survivors: Vehicles whose updates, and so their noise, are in the sum.
        minimum_survivors: For how many each vehicle's part of the noise was reckoned.
        sampling: How they came to take part.
        rate: Probability of taking part, or drawn over all vehicles, in (0, 1]; of EVERYBODY 1.
        count_noise_variance: Of the noise in the published count of clipped updates; None where no count is
            published.
        exact_sums: What else was summed up over vehicles and published without noise, by name.
    """

    sensitivity: Sensitivity | None
    noise_variance: float
    survivors: int
    minimum_survivors: int
    sampling: Sampling
    rate: float = 1.0
    count_noise_variance: float | None = None
    exact_sums: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 < self.rate <= 1.0:
            raise ValueError(f"rate must be above 0 and at most 1, got {self.rate}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySpent:
    """The account of a run so far; begins empty, grows by `spend`.

    Attributes:
        rounds: Counted in.
        divergences: At ORDERS, summed over the rounds; empty before the first.
        neighbours: "zeroed" or "replaced"; empty before the first.
        unsupported: Why no epsilon can be stated; empty where one can.
    """

    rounds: int = 0
    divergences: tuple[float, ...] = ()
    neighbours: str = ""
    unsupported: str = ""


def spend(spent: PrivacySpent, facts: RoundFacts) -> PrivacySpent:
    """The account after one more round.

    A round that no epsilon can be stated for is counted too: what it told cannot be taken back, and from then
    on the account has none.
    """
    rounds = spent.rounds + 1
    if spent.unsupported:
        return replace(spent, rounds=rounds)
    neighbours = "replaced" if facts.sampling is Sampling.WITHOUT_REPLACEMENT else "zeroed"
    reason = _unsupported(facts)
    if not reason and spent.neighbours not in ("", neighbours):
        reason = "the way of sampling changed within the run"
    if reason:
        return PrivacySpent(rounds=rounds, unsupported=f"round {rounds}: {reason}")
    before = spent.divergences or (0.0,) * len(ORDERS)
    after = tuple(old + new for old, new in zip(before, round_divergences(facts), strict=True))
    return PrivacySpent(rounds=rounds, divergences=after, neighbours=neighbours)


def epsilon(spent: PrivacySpent, delta: float) -> float:
    """The smallest epsilon that the account supports.

    Args:
        spent: The account.
        delta: In (0, 1).

    Raises:
        NoEpsilonError: A round's sampling, clipping, noise or cohort supports none.
        UsageError: dp-accounting is not installed.
    """
    if spent.unsupported:
        raise NoEpsilonError(spent.unsupported)
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta must be above 0 and below 1, got {delta}")
    try:
        from dp_accounting.rdp import compute_epsilon  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError(
            "stating an epsilon needs the package dp-accounting; install it with: "
            "pip install 'convoy-fl[privacy]'"
        ) from error
    if not spent.rounds:
        return 0.0
    value, _ = compute_epsilon(ORDERS, spent.divergences, delta)
    return float(value)


def allows_another_round(
    spent: PrivacySpent, planned: RoundFacts, delta: float, epsilon_budget: float
) -> bool:
    """Whether epsilon stays within the budget if a round like `planned` is run.

    Args:
        spent: The account before the round.
        planned: The round; its survivors can be put at the minimum.
        delta: In (0, 1).
        epsilon_budget: Largest epsilon.

    Raises:
        NoEpsilonError: No epsilon could be stated after that round.
        UsageError: dp-accounting is not installed.
    """
    return epsilon(spend(spent, planned), delta) <= epsilon_budget


@functools.lru_cache(maxsize=16)
def round_divergences(facts: RoundFacts) -> tuple[float, ...]:
    """The bound of one round at ORDERS; the rounds of a run are mostly alike.

    Raises:
        NoEpsilonError: There is none.
    """
    bound, reason = facts.sensitivity, _unsupported(facts)
    if bound is None or reason:
        raise NoEpsilonError(reason)
    if facts.sampling is Sampling.POISSON:
        mechanism = functools.partial(_mechanism, bound, facts)
        return tuple(poisson_sampled(mechanism, facts.rate, order) for order in ORDERS)
    if facts.sampling is Sampling.WITHOUT_REPLACEMENT:
        # One update replaced by another moves the sum by both lengths; the count, by 1 as before.
        twice = Sensitivity(l1=2.0 * bound.l1, l2=2.0 * bound.l2)
        mechanism = functools.partial(_mechanism, twice, facts)
        return tuple(sampled_without_replacement(mechanism, facts.rate, order) for order in ORDERS)
    return tuple(_mechanism(bound, facts, np.array(ORDERS)).tolist())


def _mechanism(
    bound: Sensitivity, facts: RoundFacts, orders: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Both noised sums of a round, everybody in; their noises are independent."""
    total = skellam_divergence(bound, facts.noise_variance, orders)
    if facts.count_noise_variance is not None:
        total = total + skellam_divergence(_COUNT_SENSITIVITY, facts.count_noise_variance, orders)
    return total


def _unsupported(facts: RoundFacts) -> str:
    """Why the round supports no epsilon; empty where it does."""
    count_variance = facts.count_noise_variance
    faults = {
        "updates were not clipped: one vehicle may change the sum by any amount": (
            facts.sensitivity is None
        ),
        "the sum carried no noise": not facts.noise_variance > 0.0,
        "the count of clipped updates carried no noise": (
            count_variance is not None and not count_variance > 0.0
        ),
        f"published without noise: {', '.join(facts.exact_sums)}": bool(facts.exact_sums),
        f"{facts.survivors} vehicles brought their part of the noise, reckoned for at least "
        f"{facts.minimum_survivors}": facts.survivors < facts.minimum_survivors,
        "how the vehicles were chosen is not known": facts.sampling is Sampling.UNKNOWN,
    }
    return "; ".join(fault for fault, present in faults.items() if present)
