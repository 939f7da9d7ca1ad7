"""Errors of the server.

ConvoyError
  UsageError
    RunExistsError        the run directory already holds a run, and neither resume nor overwrite was asked
    ChangedRunError       resume was asked with other settings than the run began with
    BrokenAuditError      audit.jsonl is not what the server wrote; names the first bad line
    ReleaseFolderError    a repository of releases, or what is to be signed, is missing or broken
    RolloutError          a step of a rollout that makes no sense
  JobFailedError
    StorageError          the run directory cannot be written (disk full, no permission)
    BrokenCheckpointError a checkpoint is not what this version writes
    NoVehiclesError       nobody answered
    TooManyAbandonedRoundsError  rounds kept missing their quorum
    RunInterruptedError   the run was stopped by Ctrl-C after `last_round` finished rounds
    WrongProxyError       the proxy frames are not what the fleet drives; carries the figures
    NotReleasableError    a gate, a missing signature or the vehicles' reports stand against a release
  ProtocolError
    RefusedReplyError     one reply of one vehicle is refused; carries the reason that is counted
    EnrolmentRefusedError a device may not join the fleet, or not stay in it
"""

from enum import Enum
from pathlib import Path

from convoy_protos.errors import JobFailedError, ProtocolError, UsageError


class RunExistsError(UsageError):
    """The run directory already holds a run."""

    def __init__(self, out: Path) -> None:
        super().__init__(
            f"{out}: holds a run already; continue it with --resume, start over with --overwrite, "
            "or choose another directory"
        )


class ChangedRunError(UsageError):
    """Resume was asked with other settings than the run began with."""

    def __init__(self, out: Path, changes: list[str]) -> None:
        super().__init__(
            f"{out}: a run is resumed with the settings it began with, but changed: "
            f"{'; '.join(changes)}; put them back or start over in another directory"
        )
        self.changes = changes


class BrokenAuditError(UsageError):
    """audit.jsonl is not what the server wrote."""

    def __init__(self, path: Path, line: int, fault: str) -> None:
        super().__init__(f"{path}:{line}: {fault}")
        self.line = line
        self.fault = fault


class ReleaseFolderError(UsageError):
    """A repository of releases, a proposal or a folder to be signed is missing or broken."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.path = path


class RolloutError(UsageError):
    """A step of a rollout that makes no sense: an unknown, withdrawn or older release."""


class WrongProxyError(JobFailedError):
    """The proxy frames are not what the fleet drives."""


class NotReleasableError(JobFailedError):
    """A gate, a missing signature or the vehicles' reports stand against a release."""


class StorageError(JobFailedError):
    """The run directory cannot be written."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"{path}: {error.strerror or error}; the last finished round is safe: "
            "make room or fix the permission, then run again with --resume"
        )
        self.path = path


class BrokenCheckpointError(JobFailedError):
    """A checkpoint is not what this version writes."""


class NoVehiclesError(JobFailedError):
    """Nobody answered."""


class TooManyAbandonedRoundsError(JobFailedError):
    """Rounds kept missing their quorum."""


class RunInterruptedError(JobFailedError):
    """The run was stopped by Ctrl-C; everything up to `last_round` is on disk."""

    def __init__(self, last_round: int) -> None:
        super().__init__(
            f"interrupted; {last_round} finished rounds are saved: "
            "run the same command with --resume to go on"
        )
        self.last_round = last_round


class RefusedReplyError(ProtocolError):
    """One reply of one vehicle is refused."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Refusal(Enum):
    """Why a device may not join, or not stay."""

    MALFORMED = "malformed"
    UNKNOWN_TOKEN = "unknown_token"  # noqa: S105 - a reason, no secret
    EXPIRED = "expired"
    USED = "used"
    UNTRUSTED = "untrusted"
    EARLY = "early"
    NOT_SIGNED = "not_signed"


class EnrolmentRefusedError(ProtocolError):
    """A device may not join the fleet, or not stay in it.

    Attributes:
        refusal: Why, for counting and for the answer's status.
    """

    def __init__(self, refusal: Refusal, why: str) -> None:
        super().__init__(refusal, why)
        self.refusal = refusal
        self.why = why

    def __str__(self) -> str:
        return self.why
