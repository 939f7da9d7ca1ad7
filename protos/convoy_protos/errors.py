"""Errors that every package may raise, and how the `convoy` command ends on them.

ConvoyError
  ProtocolError
    MalformedMessageError   the bytes or records handed in are not what our peer's code writes
  UsageError                bad input or wrong usage; the message says what to do; exit code 2
    SettingsError           a setting is unknown, missing or out of range (also a ValueError)
  JobFailedError            the work was started and could not be finished, or a gate refused; exit 1
"""


class ConvoyError(Exception):
    """Base of every error raised on purpose."""


class ProtocolError(ConvoyError):
    """Base of what a misbehaving peer can cause."""


class MalformedMessageError(ProtocolError):
    """The bytes or records handed in are not what our peer's code writes."""


class UsageError(ConvoyError):
    """Bad input or wrong usage; the message names the file or field and says what to do."""


class SettingsError(UsageError, ValueError):
    """A setting is unknown, missing or out of range; the message names the field and the way out."""


class JobFailedError(ConvoyError):
    """The work was started and could not be finished, or a gate refused its result."""
