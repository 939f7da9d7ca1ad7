"""Errors of making a model small.

JobFailedError (convoy_protos.errors, exit code 1)
  ModelCompressionError     base of what stops a model on its way to the vehicle
    UnusableTeacherError    a teacher holds or says NaN or infinite values
    PruningError            the network's layers are not the plain stack that can be pruned
    ExportError             the network cannot be written as ONNX
    CalibrationError        the ranges of a network's tensors cannot be told, or are not ranges
    QuantizationError       the ONNX network cannot be turned into integers
"""

from convoy_protos.errors import JobFailedError


class ModelCompressionError(JobFailedError):
    """Base of what stops a model on its way to the vehicle."""


class UnusableTeacherError(ModelCompressionError):
    """A teacher holds or says NaN or infinite values."""


class PruningError(ModelCompressionError):
    """The network's layers are not the plain stack that can be pruned."""


class ExportError(ModelCompressionError):
    """The network cannot be written as ONNX."""


class CalibrationError(ModelCompressionError):
    """The ranges of a network's tensors cannot be told, or are not ranges."""


class QuantizationError(ModelCompressionError):
    """The ONNX network cannot be turned into integers."""
