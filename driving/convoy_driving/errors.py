"""Errors of convoy_driving.

ConvoyError
  UsageError                    (convoy_protos.errors: bad input, exit code 2)
    RecordingError              base of what is wrong with recordings
      NotARecordingError        a path that no reader recognises
      BrokenRecordingError      a recording whose index cannot be read at all
      NoUsableFramesError       a vehicle whose recordings hold nothing to learn from
      MissingExtraError         a reader needs an optional package that is not installed
    ModelFileError              a parameter or ONNX file that is not what it should be
  JobFailedError                (convoy_protos.errors: exit code 1)
    FrameCacheError             the cache folder cannot be written
    InferenceError              a model that was loaded fails on a frame
"""

from convoy_protos.errors import JobFailedError, UsageError


class RecordingError(UsageError):
    """Base of what is wrong with recordings."""


class NotARecordingError(RecordingError):
    """A path that no reader recognises."""


class BrokenRecordingError(RecordingError):
    """A recording whose index cannot be read at all."""


class NoUsableFramesError(RecordingError):
    """A vehicle whose recordings hold nothing to learn from."""


class MissingExtraError(RecordingError):
    """A reader needs an optional package that is not installed."""


class ModelFileError(UsageError):
    """A parameter or ONNX file that is not what it should be."""


class FrameCacheError(JobFailedError):
    """The cache folder cannot be written."""


class InferenceError(JobFailedError):
    """A model that was loaded fails on a frame."""
