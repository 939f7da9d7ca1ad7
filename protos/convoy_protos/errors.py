"""Errors of this package.

ProtocolError
  MalformedMessageError   the bytes or records handed in are not what our peer's code writes
SettingsError (a ValueError)   a setting is unknown, missing or out of range
"""


class ProtocolError(Exception):
    """Base of what a misbehaving peer can cause here."""


class MalformedMessageError(ProtocolError):
    """The bytes or records handed in are not what our peer's code writes."""


class SettingsError(ValueError):
    """A setting is unknown, missing or out of range; the message names the field and the way out."""
