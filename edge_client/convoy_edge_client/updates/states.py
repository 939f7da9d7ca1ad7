"""The life of a release on one vehicle: a pure state machine. update_file.py puts it on disk.

    IDLE | COMMITTED | ROLLED_BACK | FAILED | QUARANTINED   resting: what is committed drives, else the factory's
      -> CHECKING -> (resting: nothing new)
                  -> DOWNLOADING -> VERIFIED -> PREFLIGHT -> [COMPILING] -> SHADOW -> READY -> TRIAL -> COMMITTED
    DOWNLOADING .. READY  failed:  the link, the disk -> FAILED; the release itself -> QUARANTINED
    TRIAL                 failed: reported as rolled back, QUARANTINED; withdrawn: ROLLED_BACK

Two processes move it: one fetches and examines (preparing.py), up to SHADOW; one drives (drive/), from there
on. So every step takes the record as it is then and returns it as it was where the step no longer fits: a
candidate that was withdrawn meanwhile does not begin to drive.

    driven(record)   TRIAL: the candidate; otherwise what is committed; None: the factory's model
    way back         candidate -> committed -> previous -> factory

Sources: Mender's ArtifactCommit and ArtifactRollback; the rollback index of Android Verified Boot 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Literal

FAILED_BOOTS: Final = 2
"""So many starts may end without a verdict; at the next one the vehicle goes back."""
MAX_QUARANTINED: Final = 256
MAX_REPORTS: Final = 64
"""That wait for the server; the oldest are dropped first."""
MAX_REASON_BYTES: Final = 500


class State(Enum):
    """Where the vehicle stands."""

    IDLE = "idle"
    CHECKING = "checking"
    DOWNLOADING = "downloading"
    VERIFIED = "verified"
    PREFLIGHT = "preflight"
    COMPILING = "compiling"
    SHADOW = "shadow"
    READY = "ready"
    TRIAL = "trial"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    QUARANTINED = "quarantined"


RESTING: Final = frozenset(
    {State.IDLE, State.COMMITTED, State.ROLLED_BACK, State.FAILED, State.QUARANTINED}
)
PREPARING: Final = (State.DOWNLOADING, State.VERIFIED, State.PREFLIGHT, State.COMPILING)
"""Of the process that fetches."""
WITH_DRIVER: Final = frozenset({State.SHADOW, State.READY, State.TRIAL})
"""Of the process that drives."""

Outcome = Literal["started", "committed", "failed", "rolled_back"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A release on this vehicle.

    Attributes:
        release: Its name, and that of its folder.
        counter: Of the signed entry.
        models: SHA-256, hexadecimal, of its model files.
        variant: Value of Variant that drives here; empty before the preflight has chosen.
        provider: Value of Provider that computes it; likewise.
    """

    release: str
    counter: int
    models: tuple[str, ...]
    variant: str = ""
    provider: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A release that failed here.

    Attributes:
        release: Its name.
        models: SHA-256 of its model files: another name does not make them better.
        reason: One line.
    """

    release: str
    models: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the server shall hear.

    Attributes:
        number: Grows with every report of this vehicle.
        release: Which one.
        outcome: How far it came.
        reason: One line; of a failure or a roll-back.
    """

    number: int
    release: str
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All that is remembered.

    Attributes:
        state: Where the vehicle stands.
        reason: How it came there, one line; empty where the state says it all.
        committed: What drives unless a trial is on; None: the factory's model.
        previous: What was committed before; None: the factory's model.
        candidate: What is fetched or tried.
        may_advance: False while the candidate's rollout is paused: it does not begin to drive.
        floor: Counter of the newest release that was ever committed; 0: none.
        quarantined: Oldest first.
        starts: Of the process, since the candidate last changed its state; or, with none, since what is
            committed last drove well.
        first_failure: Of the candidate that was tried last: when the way back fails too, this is the cause.
        last_number: Of the newest report.
        reports: That wait to be sent.
    """

    state: State = State.IDLE
    reason: str = ""
    committed: Slot | None = None
    previous: Slot | None = None
    candidate: Slot | None = None
    may_advance: bool = True
    floor: int = 0
    quarantined: tuple[Quarantined, ...] = ()
    starts: int = 0
    first_failure: str = ""
    last_number: int = 0
    reports: tuple[Report, ...] = ()


def driven(record: Record) -> Slot | None:
    """What drives; None: the factory's model."""
    return record.candidate if record.state is State.TRIAL else record.committed


def ways(record: Record) -> Iterator[Slot | None]:
    """What drives, then what does if that cannot be loaded; the factory's model is last."""
    yield from dict.fromkeys((driven(record), record.committed, record.previous, None))


def needed_releases(record: Record) -> frozenset[str]:
    """Releases whose files must stay; the factory's are elsewhere and never collected."""
    slots = (record.committed, record.previous, record.candidate)
    return frozenset(slot.release for slot in slots if slot is not None)


# Steps of the process that fetches.


def check_begins(record: Record) -> Record:
    """Ask the repository; while a candidate is with the driver the state stays."""
    return replace(record, state=State.CHECKING) if record.state in RESTING else record


def check_ends(record: Record, why: str) -> Record:
    """Nothing to install, or nobody answered: back to rest."""
    return _at_rest(record, why) if record.state is State.CHECKING else record


def download_begins(record: Record, candidate: Slot) -> Record:
    """A release is offered."""
    if record.state is not State.CHECKING:
        return record
    begun = replace(
        record,
        state=State.DOWNLOADING,
        reason="",
        candidate=candidate,
        may_advance=True,
        starts=0,
        first_failure="",
    )
    return _reported(begun, candidate.release, "started")


def downloaded(record: Record) -> Record:
    """Every file is here and is what was signed."""
    return _moved(record, State.DOWNLOADING, State.VERIFIED)


def preflight_begins(record: Record) -> Record:
    """The files are examined and tried in a process of their own."""
    return _moved(record, State.VERIFIED, State.PREFLIGHT)


def compile_begins(record: Record) -> Record:
    """Engines are built; what is committed goes on driving."""
    return _moved(record, State.PREFLIGHT, State.COMPILING)


def preflight_passed(record: Record, variant: str, provider: str) -> Record:
    """The candidate may look on."""
    if record.candidate is None or record.state not in (State.PREFLIGHT, State.COMPILING):
        return record
    chosen = replace(record.candidate, variant=variant, provider=provider)
    return replace(record, state=State.SHADOW, candidate=chosen, starts=0)


def preparing_failed(record: Record, reason: str, *, of_release: bool) -> Record:
    """What was fetched cannot be used.

    Args:
        record: As it is.
        reason: One line.
        of_release: The release is to blame and is not tried again; False: the link or the disk is.
    """
    if record.state not in PREPARING:
        return record
    return _given_up(record, reason, quarantine=of_release)


def preparing_started(record: Record) -> Record:
    """The process that fetches has started: what it was about when it ended is begun anew.

    A release whose examination has ended the process too often is to blame.
    """
    if record.state is State.CHECKING:
        return _at_rest(record, record.reason)
    if record.state not in PREPARING:
        return record
    examined = record.state in (State.PREFLIGHT, State.COMPILING)
    if examined and record.starts >= FAILED_BOOTS:
        return _given_up(record, f"its {record.state.value} never came to an end", quarantine=True)
    return replace(
        record, state=State.VERIFIED if examined else record.state, starts=record.starts + 1
    )


def judged(record: Record, *, minimum: int, keep_candidate: bool, may_advance: bool) -> Record:
    """What the signed channel and policy say about what is here.

    Args:
        record: As it is.
        minimum: Of the policy: what has a smaller counter does not drive.
        keep_candidate: False: it was withdrawn or forbidden.
        may_advance: False: its rollout is paused.
    """
    if record.candidate is not None:
        if not keep_candidate:
            record = _given_up(record, "withdrawn", quarantine=False)
        elif record.may_advance != may_advance:
            record = replace(record, may_advance=may_advance)
    if record.previous is not None and record.previous.counter < minimum:
        record = replace(record, previous=None)
    committed = record.committed
    if committed is not None and committed.counter < minimum:
        why = f"{committed.release} is below the policy's minimum counter {minimum}"
        record = _one_back(record, committed, why)
    return record


def reports_sent(record: Record, highest: int) -> Record:
    """The server keeps reports up to this number."""
    left = tuple(report for report in record.reports if report.number > highest)
    return record if left == record.reports else replace(record, reports=left)


# Steps of the process that drives. Each names the candidate that it is about.


def started(record: Record) -> Record:
    """The process that drives has started; a model that keeps ending it is left."""
    if record.state in WITH_DRIVER:
        if record.starts >= FAILED_BOOTS:
            why = f"the process ended {record.starts + 1} times in {record.state.value}"
            return _given_up(record, why, quarantine=True)
        return replace(record, starts=record.starts + 1)
    if record.candidate is not None or record.committed is None:
        return record
    if record.starts >= FAILED_BOOTS:
        why = f"the process ended {record.starts + 1} times while it drove"
        return _one_back(_quarantine(record, record.committed, why), record.committed, why)
    return replace(record, starts=record.starts + 1)


def drives_well(record: Record) -> Record:
    """What drives has done so for a while: earlier starts are forgiven. A trial has its own end."""
    if record.state is State.TRIAL or record.state in PREPARING or record.starts == 0:
        return record
    return replace(record, starts=0)


def ended(record: Record) -> Record:
    """The process that drives was asked to end and does: nobody is to blame for this start."""
    if record.state in PREPARING or record.starts == 0:
        return record
    return replace(record, starts=record.starts - 1)


def shadow_passed(record: Record, release: str) -> Record:
    """The candidate agrees with what drives."""
    return _moved(record, State.SHADOW, State.READY, release)


def trial_begins(record: Record, release: str) -> Record:
    """The window is open and the candidate is loaded and warm."""
    if not record.may_advance:
        return record
    return _moved(record, State.READY, State.TRIAL, release)


def trial_passed(record: Record, release: str) -> Record:
    """The candidate has driven well and is committed to."""
    candidate = record.candidate
    if record.state is not State.TRIAL or candidate is None or candidate.release != release:
        return record
    committed = replace(
        record,
        state=State.COMMITTED,
        reason="",
        committed=candidate,
        previous=record.committed,
        candidate=None,
        floor=max(record.floor, candidate.counter),
        starts=0,
    )
    return _reported(committed, release, "committed")


def candidate_failed(record: Record, release: str, reason: str) -> Record:
    """In the shadow or the trial it crashed, answered NaN, was slow, hung, disagreed, or was sent back."""
    candidate = record.candidate
    if record.state not in WITH_DRIVER or candidate is None or candidate.release != release:
        return record
    return _given_up(record, reason, quarantine=True)


def committed_failed(record: Record, slot: Slot, reason: str) -> Record:
    """What is committed cannot drive any more, without a candidate to blame."""
    if record.committed != slot:
        return record
    return _one_back(_quarantine(record, slot, reason), slot, reason)


def unusable(record: Record, slot: Slot, reason: str) -> Record:
    """A slot's files are missing, damaged, or are not loaded any more; the way back begins."""
    if record.candidate == slot and record.state in WITH_DRIVER:
        return _given_up(record, reason, quarantine=False)
    if record.committed == slot:
        return _one_back(record, slot, reason)
    if record.previous == slot:
        return replace(record, previous=None, first_failure=record.first_failure or reason)
    return record


def sent_back(record: Record, reason: str) -> Record:
    """The operator wants what drove before: out of a candidate, else out of what is committed."""
    if record.candidate is not None:
        return _given_up(record, reason, quarantine=True)
    if record.committed is None:
        return record
    return _one_back(_quarantine(record, record.committed, reason), record.committed, reason)


def _at_rest(record: Record, reason: str) -> Record:
    state = State.IDLE if record.committed is None else State.COMMITTED
    return replace(record, state=state, reason=_one_line(reason))


def _moved(record: Record, expected: State, then: State, release: str = "") -> Record:
    candidate = record.candidate
    if record.state is not expected or candidate is None:
        return record
    if release and candidate.release != release:
        return record
    # A start that was lost in an examination counts until the examination has ended.
    starts = record.starts if then in PREPARING else 0
    return replace(record, state=then, reason="", starts=starts)


def _given_up(record: Record, reason: str, *, quarantine: bool) -> Record:
    """The candidate is left; what is committed drives on."""
    candidate = record.candidate
    if candidate is None:
        return record
    reason = _one_line(reason)
    drove = record.state is State.TRIAL
    left = replace(
        record,
        state=State.ROLLED_BACK if drove else State.FAILED,
        reason=reason,
        candidate=None,
        may_advance=True,
        starts=0,
        first_failure=record.first_failure or reason,
    )
    left = _reported(left, candidate.release, "rolled_back" if drove else "failed", reason)
    return _quarantine(left, candidate, reason) if quarantine else left


def _one_back(record: Record, slot: Slot, reason: str) -> Record:
    """What is committed is left: previous drives, else the factory's model."""
    reason = _one_line(reason)
    back = replace(
        record,
        committed=record.previous,
        previous=None,
        starts=0,
        first_failure=record.first_failure or reason,
    )
    if back.candidate is None and back.state is not State.CHECKING:
        state = State.QUARANTINED if back.state is State.QUARANTINED else State.ROLLED_BACK
        back = replace(back, state=state, reason=reason)
    return _reported(back, slot.release, "rolled_back", reason)


def _quarantine(record: Record, slot: Slot, reason: str) -> Record:
    entry = Quarantined(release=slot.release, models=slot.models, reason=_one_line(reason))
    newest = (*record.quarantined, entry)[-MAX_QUARANTINED:]
    held = replace(record, quarantined=newest)
    return replace(held, state=State.QUARANTINED) if held.candidate is None else held


def _reported(record: Record, release: str, outcome: Outcome, reason: str = "") -> Record:
    report = Report(
        number=record.last_number + 1, release=release, outcome=outcome, reason=_one_line(reason)
    )
    return replace(
        record, last_number=report.number, reports=(*record.reports, report)[-MAX_REPORTS:]
    )


def _one_line(reason: str) -> str:
    """Printable, on one line, and short enough for a report."""
    line = "".join(letter if letter.isprintable() else " " for letter in " ".join(reason.split()))
    return line.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
