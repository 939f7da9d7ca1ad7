"""Errors that every package may raise, and how the `convoy` command ends on them.

ConvoyError
  ProtocolError
    MalformedMessageError   the bytes or records handed in are not what our peer's code writes
    BundleRefusedError      a run that was submitted carries more than settings
  LinkError                 a server cannot be reached or does not do what it was asked
    LinkDownError           not reachable now; asking again may help
    LinkRefusedError        it refuses; asking the same again does not help
      NodeUnknownError      it does not take the signature of the node for one that it knows
    SuperLinkError          Flower's SuperLink, through the private door
  UsageError                bad input or wrong usage; the message says what to do; exit code 2
    SettingsError           a setting is unknown, missing or out of range (also a ValueError)
    TokenError              a line that lets a device join a fleet is none, or not a whole one
  JobFailedError            the work was started and could not be finished, or a gate refused; exit 1
"""


class ConvoyError(Exception):
    """Base of every error raised on purpose."""


class ProtocolError(ConvoyError):
    """Base of what a misbehaving peer can cause."""


class MalformedMessageError(ProtocolError):
    """The bytes or records handed in are not what our peer's code writes."""


class BundleRefusedError(ProtocolError):
    """A run that was submitted carries more than settings."""


class LinkError(ConvoyError):
    """A server cannot be reached or does not do what it was asked."""


class LinkDownError(LinkError):
    """The server is not reachable now; asking again may help."""


class LinkRefusedError(LinkError):
    """The server refuses; asking the same again does not help."""


class NodeUnknownError(LinkRefusedError):
    """The server does not take the node's signature for that of one it knows; its clock may be wrong."""


class SuperLinkError(LinkError):
    """Flower's SuperLink is not up, or refuses what was asked through the private door."""


class UsageError(ConvoyError):
    """Bad input or wrong usage; the message names the file or field and says what to do."""


class SettingsError(UsageError, ValueError):
    """A setting is unknown, missing or out of range; the message names the field and the way out."""


class TokenError(UsageError):
    """A line that lets a device join a fleet is none, or not a whole one; it is never quoted."""


class JobFailedError(ConvoyError):
    """The work was started and could not be finished, or a gate refused its result."""
