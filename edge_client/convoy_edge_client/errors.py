"""Errors of convoy_edge_client.

ConvoyError
  UsageError                    (convoy_protos.errors: bad input, exit code 2)
    VehicleConfigError          a vehicle's configuration is missing or wrong
    RecordingsMissingError      a vehicle's recordings are not where its configuration says
    FactoryModelError           nothing can be loaded to drive with, not even the factory's model
    FrameSourceError            a source of frames is not there, or needs a package that is not installed
  ProtocolError                 (convoy_protos.errors: a misbehaving peer)
    ReleaseFileError            a file of a release is not the one that its manifest names
    RefusedInstructionsError    the server asks for something that this vehicle cannot or will not do
      BaseModelMissingError     a difference came to a model that this vehicle does not have
      NoUpdateKeptError         a secure sum asks for an update that this vehicle has not trained
      NotNowError               the machine is needed for something else, or not in the state for work
      StaleMessageError         nobody waits for the answer any more
    ReleaseRefusedError         what a repository of releases offers is not to be trusted
  LinkDownError                 (convoy_protos.errors: a server that is not there now)
    RepositoryDownError         a repository of releases is absent or too slow now
  JobFailedError                (convoy_protos.errors: exit code 1)
    ReleaseStoreError           this vehicle's folder of releases cannot be written, or is in use
    DivergedTrainingError       local training ended in NaN or infinity
    EnrolmentError              this device may not join the fleet, or not stay in it
      ServerUnreachableError    the enrolment service does not answer now
    WorkerError                 a process that tries a model ended without an answer
    SignalsError                the plug-in that knows the vehicle's signals failed
    AgentStoppedError           the agent was asked to stop while it waited
    AgentRunningError           another agent uses the state folder
"""

from enum import Enum

from convoy_protos.errors import JobFailedError, LinkDownError, ProtocolError, UsageError


class VehicleConfigError(UsageError):
    """A vehicle's configuration is missing or wrong; the message names the file."""


class RecordingsMissingError(UsageError):
    """A vehicle's recordings are not where its configuration says; names vehicle and path."""


class FactoryModelError(UsageError):
    """Nothing can be loaded to drive with, not even the factory's model; the message names its folder."""


class FrameSourceError(UsageError):
    """A source of frames is not there, or needs a package that is not installed."""


class ReleaseFileError(ProtocolError):
    """A file of a release is not the one that its manifest names."""


class RefusedInstructionsError(ProtocolError):
    """The server asks for something that this vehicle cannot or will not do."""


class BaseModelMissingError(RefusedInstructionsError):
    """A difference came to a model that this vehicle does not have; it needs the whole model."""


class NoUpdateKeptError(RefusedInstructionsError):
    """A secure sum asks for an update that this vehicle has not trained, or for another round's."""


class NotNowError(RefusedInstructionsError):
    """This device will not work now; the message says why.

    Attributes:
        retry_after_s: When it makes sense to ask again.
    """

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type["NotNowError"], tuple[str, float]]:
        return NotNowError, (str(self), self.retry_after_s)


class StaleMessageError(RefusedInstructionsError):
    """Nobody waits for the answer any more; the message says since when."""


class DivergedTrainingError(JobFailedError):
    """Local training ended in NaN or infinity."""


class WorkerError(JobFailedError):
    """A process that tries a model ended without an answer; the message says how."""


class SignalsError(JobFailedError):
    """The plug-in that knows the vehicle's signals failed; the message goes on after its name."""


class EnrolmentError(JobFailedError):
    """This device may not join the fleet, or not stay in it; the message says why."""


class ServerUnreachableError(EnrolmentError):
    """The enrolment service does not answer now."""


class AgentStoppedError(JobFailedError):
    """The agent was asked to stop while it waited; what it had goes on at the next start."""


class AgentRunningError(JobFailedError):
    """Another agent uses the state folder."""


class Refusal(Enum):
    """Why a vehicle does not take what a repository of releases offers."""

    UNSIGNED = "unsigned"
    REPLAYED = "replayed"
    EXPIRED = "expired"
    ALTERED = "altered"
    TOO_LONG = "too_long"
    MALFORMED = "malformed"
    MISSING = "missing"
    OLD_COUNTER = "old_counter"
    CLOCK = "clock"


class ReleaseRefusedError(ProtocolError):
    """What a repository of releases offers is not to be trusted; nothing was changed.

    Attributes:
        refusal: Which rule, for counting and for the report to the server.
        why: One line.
    """

    def __init__(self, refusal: Refusal, why: str) -> None:
        super().__init__(refusal, why)
        self.refusal = refusal
        self.why = why

    def __str__(self) -> str:
        return f"{self.refusal.value}: {self.why}"


class RepositoryDownError(LinkDownError):
    """A repository of releases is absent or too slow now; what was fetched is kept."""


class ReleaseStoreError(JobFailedError):
    """This vehicle's folder of releases cannot be written, or another process uses it."""
