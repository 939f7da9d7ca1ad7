"""Which variant drives, on which execution provider: a pure rule over what was tried."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from convoy_edge_client.preflight.preflight_config import PreflightConfig, Provider
from convoy_edge_client.preflight.trial_order import TrialResult
from convoy_protos.release_manifest import Variant

CLEARLY_FASTER: Final = 1.2
"""Float32 must be faster by this factor to be chosen: it is four times as large, and times vary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A variant on a provider, and what came of it."""

    variant: Variant
    provider: Provider
    result: TrialResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What drives.

    Attributes:
        variant: Whose file.
        provider: What computes it.
        p50_ms: Median time of a frame in the trial.
    """

    variant: Variant
    provider: Provider
    p50_ms: float


def objection(trial: Trial, config: PreflightConfig) -> str:
    """Why this variant may not drive on this provider; empty: it may."""
    result = trial.result
    if result.fault:
        return result.fault
    limit = config.golden_difference(trial.variant)
    if not result.difference <= limit:  # written so that NaN objects
        return f"answers {result.difference:.4g} off the golden vectors, at most {limit:g} allowed"
    if not result.p50_ms <= config.latency_limit_ms:
        return (
            f"takes {result.p50_ms:.3g} ms a frame, at most {config.latency_limit_ms:g} ms of the "
            f"frame period of {config.frame_period_ms:g} ms allowed"
        )
    return ""


def choose(trials: Sequence[Trial], config: PreflightConfig) -> Choice | None:
    """The fastest variant on the first provider on which any may drive; None where none may.

    Float32 is chosen where it is clearly faster than the integer forms, or they may not drive.
    """
    for name in config.providers:
        fit = [
            trial
            for trial in trials
            if trial.provider is Provider(name) and not objection(trial, config)
        ]
        if fit:
            best = min(fit, key=_handicapped_ms)
            return Choice(variant=best.variant, provider=best.provider, p50_ms=best.result.p50_ms)
    return None


def _handicapped_ms(trial: Trial) -> float:
    return trial.result.p50_ms * (CLEARLY_FASTER if trial.variant is Variant.FP32 else 1.0)
