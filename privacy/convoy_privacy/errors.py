"""Errors of the privacy package.

PrivacyError (convoy_protos.ConvoyError)
  UnboundedUpdateError   an update holds NaN or infinite values, so no norm bounds it
"""

from convoy_protos.errors import ConvoyError


class PrivacyError(ConvoyError):
    """Base of this package's errors."""


class UnboundedUpdateError(PrivacyError):
    """An update holds NaN or infinite values, so no norm bounds it."""
