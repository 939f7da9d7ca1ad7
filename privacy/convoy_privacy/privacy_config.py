"""Section [privacy]: what is done to an update so that no single vehicle shows in the result."""

import math
from dataclasses import dataclass
from typing import Final

_MAX_COUNT_STDDEV: Final = 1e3
"""No sum has as many vehicles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyConfig:
    """What a vehicle does to its update before it leaves; section [privacy].

    Attributes:
        clip_norm: Bound on an update's 2-norm, in parameter units, positive; None: no bound.
        clip_quantile: Share of updates that the bound shall leave as they are: clip_norm is then where
            it starts, and it follows the fleet; in (0, 1). None: clip_norm stays.
        clip_learning_rate: How fast the bound follows: a round changes its logarithm by at most this.
        clip_count_stddev: With clip_quantile and noise_multiplier: standard deviation of the noise in
            the count of clipped updates of a sum, in vehicles; above noise_multiplier, whose meaning
            it does not change (the updates get a little more noise), and well below the vehicles of a
            sum, or the bound wanders.
        noise_multiplier: Standard deviation of the noise in a sum of updates over what one vehicle can
            change (clip_norm, and a little by rounding), for client-level differential privacy; positive.
            None: no noise.
        delta: Probability with which the stated epsilon may fail, in (0, 1); below one over the number
            of vehicles.
        secret_sampling: Whether nobody whom epsilon speaks of knows which vehicles are drawn; only then
            does drawing few of many make epsilon smaller. A seed in a scenario or report is no secret.
        epsilon_budget: The run ends before a round that would take epsilon beyond this; positive.
            None: no bound.
    """

    clip_norm: float | None = None
    clip_quantile: float | None = None
    clip_learning_rate: float = 0.2
    clip_count_stddev: float = 3.0
    noise_multiplier: float | None = None
    delta: float = 1e-5
    secret_sampling: bool = False
    epsilon_budget: float | None = None

    def __post_init__(self) -> None:
        for name in (
            *("clip_norm", "clip_learning_rate", "clip_count_stddev"),
            *("noise_multiplier", "epsilon_budget"),
        ):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        for name in ("clip_quantile", "delta"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < 1.0:
                raise ValueError(f"{name} must be above 0 and below 1, got {value}")
        if self.clip_quantile is not None and self.clip_norm is None:
            raise ValueError("clip_quantile needs clip_norm, the bound of the first round")
        if self.noise_multiplier is not None and self.clip_norm is None:
            raise ValueError(
                "noise_multiplier needs clip_norm: noise hides only a vehicle of bounded influence"
            )
        if (
            self.noise_multiplier is not None
            and self.clip_quantile is not None
            and not self.noise_multiplier < self.clip_count_stddev <= _MAX_COUNT_STDDEV
        ):
            raise ValueError(
                f"clip_count_stddev must be above noise_multiplier ({self.noise_multiplier:g}) and at "
                f"most {_MAX_COUNT_STDDEV:g}, got {self.clip_count_stddev:g}: with less noise the "
                "count of clipped updates alone tells more than the whole round may"
            )
        if self.epsilon_budget is not None and self.noise_multiplier is None:
            raise ValueError(
                "epsilon_budget needs noise_multiplier: without noise epsilon is infinite"
            )
