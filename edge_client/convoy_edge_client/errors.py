"""Errors of convoy_edge_client.

ConvoyError
  UsageError                    (convoy_protos.errors: bad input, exit code 2)
    VehicleConfigError          a vehicle's configuration is missing or wrong
    RecordingsMissingError      a vehicle's recordings are not where its configuration says
  ProtocolError                 (convoy_protos.errors: a misbehaving peer)
    RefusedInstructionsError    the server asks for something that this vehicle cannot or will not do
      BaseModelMissingError     a difference came to a model that this vehicle does not have
      NoUpdateKeptError         a secure sum asks for an update that this vehicle has not trained
  JobFailedError                (convoy_protos.errors: exit code 1)
    DivergedTrainingError       local training ended in NaN or infinity
"""

from convoy_protos.errors import JobFailedError, ProtocolError, UsageError


class VehicleConfigError(UsageError):
    """A vehicle's configuration is missing or wrong; the message names the file."""


class RecordingsMissingError(UsageError):
    """A vehicle's recordings are not where its configuration says; names vehicle and path."""


class RefusedInstructionsError(ProtocolError):
    """The server asks for something that this vehicle cannot or will not do."""


class BaseModelMissingError(RefusedInstructionsError):
    """A difference came to a model that this vehicle does not have; it needs the whole model."""


class NoUpdateKeptError(RefusedInstructionsError):
    """A secure sum asks for an update that this vehicle has not trained, or for another round's."""


class DivergedTrainingError(JobFailedError):
    """Local training ended in NaN or infinity."""
