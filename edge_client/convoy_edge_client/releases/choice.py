"""What a vehicle does about what its channel says: the rules, without disk or network."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from convoy_privacy.errors import ReleaseCounterError
from convoy_privacy.releases.cohort import VehicleProfile, has_tags, in_rollout
from convoy_privacy.releases.counters import check_counter
from convoy_privacy.releases.signed_texts import ChannelPointer, ReleasePolicy


@dataclass(frozen=True, slots=True)
class ReleaseRef:
    """A release by name and counter."""

    release: str
    counter: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the vehicle has.

    Attributes:
        committed: What it drives and has committed to; None: the factory's model.
        candidate: What it fetches or tries.
        floor: Counter of the newest release that it ever committed to; 0: none.
        quarantined: Releases that failed here.
        quarantined_files: SHA-256, hexadecimal, of the models that failed here: another name does not
            make them better.
    """

    committed: ReleaseRef | None = None
    candidate: ReleaseRef | None = None
    floor: int = 0
    quarantined: frozenset[str] = frozenset()
    quarantined_files: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the vehicle does now.

    Attributes:
        install: Begin with the pointer's release.
        keep_committed: Go on driving what is committed; False: the offline keys forbid it.
        keep_candidate: Go on trying; False: leave it, as it was withdrawn or forbidden.
        advance: The candidate may begin to drive; False while its rollout is paused.
        why: One line about the release that is not installed; empty if it is.
        refused: Why the pointer itself is against the rules; empty: it is not.
    """

    install: bool
    keep_committed: bool
    keep_candidate: bool
    advance: bool
    why: str
    refused: str = ""


def choose(
    pointer: ChannelPointer | None, policy: ReleasePolicy, profile: VehicleProfile, held: Held
) -> Verdict:
    """Judge a channel's pointer.

    A percentage that goes down and a pause take nothing away from a vehicle that has begun.

    Args:
        pointer: Of the vehicle's channel, verified; None: nothing was released on it yet.
        policy: Verified.
        profile: Of the vehicle.
        held: What it has.
    """
    committed, candidate = held.committed, held.candidate
    refused = "" if pointer is None else _refused(pointer, policy, held)
    why = refused or _why_not(pointer, profile, held)
    return Verdict(
        install=not why,
        keep_committed=committed is None or committed.counter >= policy.minimum_counter,
        keep_candidate=candidate is None
        or (
            candidate.counter >= policy.minimum_counter
            and (pointer is None or candidate.release not in pointer.withdrawn)
        ),
        advance=candidate is None
        or pointer is None
        or candidate.release != pointer.release
        or pointer.state == "rolling",
        why=why,
        refused=refused,
    )


def judge_files(verdict: Verdict, release: str, digests: Iterable[str], held: Held) -> Verdict:
    """The verdict once it is known what files a release has.

    Args:
        verdict: Of `choose`.
        release: The pointer's.
        digests: SHA-256 of its files, hexadecimal.
        held: What the vehicle has.
    """
    if not verdict.install or held.quarantined_files.isdisjoint(digests):
        return verdict
    why = f"{release} has a model that failed on this vehicle under another name"
    return dataclasses.replace(verdict, install=False, why=why)


def _refused(pointer: ChannelPointer, policy: ReleasePolicy, held: Held) -> str:
    try:
        check_counter(pointer.counter, minimum=policy.minimum_counter, floor=held.floor)
    except ReleaseCounterError as error:
        return f"{pointer.channel} points at {pointer.release}, but {error}"
    return ""


def _why_not(  # noqa: PLR0911 - one return a reason
    pointer: ChannelPointer | None, profile: VehicleProfile, held: Held
) -> str:
    if pointer is None:
        return "nothing was released on this channel yet"
    release = pointer.release
    if held.committed is not None and held.committed.release == release:
        return f"{release} is driven already"
    if held.candidate is not None and held.candidate.release == release:
        return f"{release} is being tried already"
    if release in pointer.withdrawn:
        return f"{release} was withdrawn"
    if release in held.quarantined:
        return f"{release} failed on this vehicle"
    if pointer.state == "paused":
        return f"the rollout of {release} is paused"
    if not has_tags(pointer, profile):
        return f"{release} is for other vehicles: {dict(pointer.tags)}"
    if not in_rollout(pointer, profile):
        return f"{release} is for {pointer.percent} % so far, and this vehicle is not among them"
    return ""
