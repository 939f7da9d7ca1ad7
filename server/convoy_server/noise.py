"""Differential privacy of masked sums: how much noise a sum asks for, and what a round has spent.

The noise is given in squared steps, and the step must leave room for it: both follow from each other.
"""

import math
from typing import Final

from convoy_compression.update.range_control import first_sigma, step_for
from convoy_compression.update.rotation import layout_of
from convoy_privacy.adaptive_clipping import update_noise_multiplier
from convoy_privacy.dp_accountant import (
    PrivacySpent,
    RoundFacts,
    Sampling,
    allows_another_round,
    epsilon,
)
from convoy_privacy.errors import NoEpsilonError
from convoy_privacy.privacy_config import PrivacyConfig
from convoy_privacy.rounded_sensitivity import Sensitivity, rounded_sensitivity
from convoy_privacy.secure_sum.terms import uploads_needed
from convoy_protos.errors import UsageError
from convoy_server.rounds import RoundConfig

_ITERATIONS: Final = 200
_NO_ROOM: Final = 1e30
"""Parameter units: a deviation that grows beyond this grows beyond every number."""


class NoisePlan:
    """What the noise of a round's sums is like; every update weighs the same.

    Attributes:
        count_variance: Of the noise in a sum's count of clipped updates, in squared vehicles; 0: no
            count is told.
    """

    def __init__(self, privacy: PrivacyConfig, parameter_count: int, modulus_bits: int) -> None:
        """Nothing is drawn here: vehicles draw the noise.

        Args:
            privacy: With noise_multiplier, and clip_norm as it is in this round.
            parameter_count: Of an update.
            modulus_bits: Of a masked sum.

        Raises:
            UsageError: dp-accounting is not installed.
        """
        assert privacy.clip_norm is not None  # noqa: S101 - PrivacyConfig asks for it
        assert privacy.noise_multiplier is not None  # noqa: S101 - the caller asks for noise
        epsilon(PrivacySpent(), privacy.delta)
        self._privacy = privacy
        self._clip_norm = privacy.clip_norm
        self._multiplier, self.count_variance = privacy.noise_multiplier, 0.0
        if privacy.clip_quantile is not None:
            self.count_variance = privacy.clip_count_stddev**2
            self._multiplier = update_noise_multiplier(
                privacy.noise_multiplier, privacy.clip_count_stddev
            )
        self._padded_count = layout_of(parameter_count).padded_count
        self._modulus_bits = modulus_bits

    def step(self, vehicles: int, minimum_cohort: int) -> float:
        """The smallest step at which the sum of so many updates, noise included, fits the modulus.

        Raises:
            UsageError: There is none: rounding alone asks for more noise than there is room.
        """
        signal = vehicles * first_sigma(self._clip_norm, self._padded_count)
        # Who is lost takes noise along; where nobody is, there is that much more of it.
        excess = vehicles / uploads_needed(vehicles, minimum_cohort)
        step = step_for(signal, self._modulus_bits)
        for _ in range(_ITERATIONS):
            noise = math.sqrt(self.variance(step) * excess) * step
            sigma = math.hypot(signal, noise)
            if not sigma < _NO_ROOM:
                break
            wider = step_for(sigma, self._modulus_bits)
            if wider <= step * 1.0001:
                return wider
            step = wider
        raise UsageError(
            f"[update] modulus_bits: {self._modulus_bits} bits have no room for the noise that "
            f"[privacy] noise_multiplier = {self._multiplier:g} asks for; take more bits, up to 16, "
            "or fewer parameters ([training] freeze, [model] width)"
        )

    def variance(self, step: float) -> float:
        """Of the noise in a whole sum, in squared steps."""
        return self._sensitivity(step).noise_variance(self._multiplier)

    def facts(
        self, step: float, *, survivors: int, needed: int, rounds: RoundConfig, rate: float
    ) -> RoundFacts:
        """What a round does to the account.

        Args:
            step: Of the round's smallest sum.
            survivors: Vehicles in it.
            needed: Vehicles for which each of its members reckoned its part of the noise.
            rounds: How vehicles are drawn.
            rate: Share of the fleet that is drawn, on average.
        """
        sampling = self._sampling(rounds, rate)
        return RoundFacts(
            sensitivity=self._sensitivity(step),
            noise_variance=self.variance(step),
            survivors=survivors,
            minimum_survivors=needed,
            sampling=sampling,
            rate=1.0 if sampling is Sampling.EVERYBODY else rate,
            count_noise_variance=self.count_variance or None,
        )

    def epsilon(self, spent: PrivacySpent) -> float | None:
        """What can be stated; None where the account supports nothing."""
        try:
            return epsilon(spent, self._privacy.delta)
        except NoEpsilonError:
            return None

    def affords(self, spent: PrivacySpent, planned: RoundFacts) -> bool:
        """Whether another round stays within the budget, if there is one."""
        budget = self._privacy.epsilon_budget
        if budget is None:
            return True
        return allows_another_round(spent, planned, self._privacy.delta, budget)

    def _sensitivity(self, step: float) -> Sensitivity:
        return rounded_sensitivity(self._clip_norm, step, self._padded_count)

    def _sampling(self, rounds: RoundConfig, rate: float) -> Sampling:
        """Whoever can know the draw, as from a seed in a report, gets no amplification by it."""
        if not self._privacy.secret_sampling or rate >= 1.0:
            return Sampling.EVERYBODY
        if rounds.sampling == "poisson":
            return Sampling.POISSON
        return Sampling.WITHOUT_REPLACEMENT
