"""How a release spreads: canaries, then 1, 5, 25 and 100 % of the vehicles. Pure rules.

    promote: another release begins with the canaries; the same one goes on to the next stage, or on from a
             pause
    pause:   nobody begins to install or drive it; who drives it goes on
    withdraw: nobody tries it any more; vehicles in trial go back; who has committed keeps it until the
             next release. The way back for those is to sign the earlier release again, which gives it a
             new counter, or to raise the policy's minimum, which sends them back at once

A release whose failures or roll-backs pass the bounds is paused by itself.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from convoy_privacy.releases.signed_texts import MAX_WITHDRAWN, ChannelPointer
from convoy_server.errors import RolloutError
from convoy_server.releases.repository import SignedRelease

STAGES: Final = (0, 1, 5, 25, 100)
"""Percent; at 0 the canaries alone."""


class Outcome(Enum):
    """How far a vehicle came with a release."""

    STARTED = "started"
    COMMITTED = "committed"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleReport:
    """What a vehicle says about a release.

    Attributes:
        vehicle: Its name, from its certificate.
        number: Grows with each of its reports; the highest counts.
        release: Which one.
        outcome: How far it came.
    """

    vehicle: str
    number: int
    release: str
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutBounds:
    """When a rollout pauses by itself.

    Attributes:
        max_failure_rate: Of vehicles with an outcome; in 0..1.
        max_rollback_rate: Of vehicles with an outcome; in 0..1.
        min_bad: Failures, or roll-backs, below which no rate counts: one broken vehicle stops nobody.
    """

    max_failure_rate: float = 0.05
    max_rollback_rate: float = 0.05
    min_bad: int = 2

    def __post_init__(self) -> None:
        for name in ("max_failure_rate", "max_rollback_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        if self.min_bad < 1:
            raise ValueError(f"min_bad must be at least 1, got {self.min_bad}")


def promote(
    pointer: ChannelPointer | None,
    channel: str,
    release: SignedRelease,
    salt: str,
    *,
    percent: int | None = None,
    tags: Mapping[str, tuple[str, ...]] | None = None,
) -> ChannelPointer:
    """The channel's next pointer.

    Args:
        pointer: The one that is there, if any.
        channel: Its name.
        release: A signed one.
        salt: For a release that begins; 32 hexadecimal digits.
        percent: Instead of the next stage; may also go down.
        tags: Filter; None: as it is.

    Raises:
        RolloutError: The release was withdrawn, or is older than the channel's.
        ReleaseFormatError: A percentage or tag out of range.
    """
    if pointer is not None and release.release in pointer.withdrawn:
        raise RolloutError(
            f"{release.release} was withdrawn: sign its folder again, which makes a new release of it"
        )
    if pointer is None or pointer.release != release.release:
        if pointer is not None and release.counter < pointer.counter:
            raise RolloutError(
                f"{release.release} is older than {pointer.release} on {channel}, and vehicles refuse to "
                "go back: sign its folder again, which makes a new release of it"
            )
        return ChannelPointer(
            channel=channel,
            release=release.release,
            counter=release.counter,
            percent=STAGES[0] if percent is None else percent,
            salt=salt,
            tags=_tags(pointer, tags),
            withdrawn=() if pointer is None else pointer.withdrawn,
        )
    stage = pointer.percent if pointer.state == "paused" else next_stage(pointer.percent)
    return dataclasses.replace(
        pointer,
        state="rolling",
        percent=stage if percent is None else percent,
        tags=_tags(pointer, tags),
    )


def pause(pointer: ChannelPointer) -> ChannelPointer:
    """Nobody begins; paused twice is paused."""
    return dataclasses.replace(pointer, state="paused")


def withdraw(pointer: ChannelPointer, release: str) -> ChannelPointer:
    """Nobody tries this release any more; withdrawn twice is withdrawn."""
    if release in pointer.withdrawn:
        return pointer
    return dataclasses.replace(pointer, withdrawn=(*pointer.withdrawn, release)[-MAX_WITHDRAWN:])


def next_stage(percent: int) -> int:
    """The stage after a percentage; 100 is the last."""
    return next((stage for stage in STAGES if stage > percent), STAGES[-1])


def tally(reports: Iterable[VehicleReport], release: str) -> dict[Outcome, int]:
    """Vehicles by their newest outcome; the same report twice, or in another order, changes nothing.

    Of two reports with one number, which an honest vehicle never sends, the worse counts.
    """
    severity = list(Outcome)
    newest: dict[str, tuple[int, int]] = {}
    for report in reports:
        if report.release == release:
            rank = (report.number, severity.index(report.outcome))
            newest[report.vehicle] = max(rank, newest.get(report.vehicle, rank))
    counts = dict.fromkeys(Outcome, 0)
    for _, index in newest.values():
        counts[severity[index]] += 1
    return counts


def pause_reason(counts: Mapping[Outcome, int], bounds: RolloutBounds) -> str | None:
    """Why a rollout must pause; None: it may go on."""
    ended = sum(counts[outcome] for outcome in Outcome if outcome is not Outcome.STARTED)
    for outcome, most in (
        (Outcome.FAILED, bounds.max_failure_rate),
        (Outcome.ROLLED_BACK, bounds.max_rollback_rate),
    ):
        bad = counts[outcome]
        if bad >= bounds.min_bad and bad > most * ended:
            return (
                f"{bad} of {ended} vehicles {outcome.value.replace('_', ' ')}, at most {most:.0%}"
            )
    return None


def _tags(
    pointer: ChannelPointer | None, tags: Mapping[str, tuple[str, ...]] | None
) -> Mapping[str, tuple[str, ...]]:
    if tags is not None:
        return tags
    return {} if pointer is None else pointer.tags
