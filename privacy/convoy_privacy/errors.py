"""Errors of the privacy package.

PrivacyError (convoy_protos.ConvoyError)
  UnboundedUpdateError   an update holds NaN or infinite values, so no norm bounds it
  NoEpsilonError         sampling, clipping, noise or cohort do not support stating an epsilon
  UntrustedPeerError     a party that our fleet's CA does not vouch for (also a ProtocolError)
  RevocationListError    a list of revoked certificates that cannot be gone by (also a ProtocolError)
  SealedMessageError     a sealed message that does not open, or a key that is none (also a ProtocolError)
  SuiteError             a way of sealing that is unknown or not installed (also a UsageError and,
                         as a peer may have chosen it, a ProtocolError)
  FleetFolderError       a file of keys or certificates that cannot be used (also a UsageError)
  SecureSumError         a message of a secure sum cannot be accepted (also a ProtocolError)
    RefusedTermsError    terms that are out of range or against this party's own policy
    BadRosterError       a list of members that hides, doubles or invents somebody
    BadKeyError          a public key with which every agreement ends the same
    WrongContextError    a message that belongs to another sum
    BadSignatureError    a signature that does not fit
    BadSharesError       shares that do not belong to one secret; names who sent them
    UnknownPeerError     somebody who has no say at this point
    OutOfOrderError      a message out of its turn, or a second one that differs
      LateUploadError    an update of somebody who was declared lost
    MaskReuseError       a second vector for the same masks
    TooFewPeersError     fewer members than the threshold or the minimum
  ReleaseFormatError     a name or text of a release repository that is none (also a ProtocolError)
  ReleaseCounterError    a release that is older than what must be (also a ProtocolError)
"""

from pathlib import Path

from convoy_protos.errors import ConvoyError, ProtocolError, UsageError


class PrivacyError(ConvoyError):
    """Base of this package's errors."""


class UnboundedUpdateError(PrivacyError):
    """An update holds NaN or infinite values, so no norm bounds it."""


class NoEpsilonError(PrivacyError):
    """No epsilon can be stated for a run.

    Attributes:
        why: One line, with the round.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"no epsilon can be stated: {why}")
        self.why = why


class UntrustedPeerError(PrivacyError, ProtocolError):
    """A party that our fleet's CA does not vouch for, at this time and in this role.

    Attributes:
        name: As the CA wrote it; "a peer" where the CA wrote nothing.
        why: One line.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} is not trusted: {why}")
        self.name = name
        self.why = why


class RevocationListError(PrivacyError, ProtocolError):
    """A list of revoked certificates is not our CA's, too old, or older than the one held."""


class SealedMessageError(PrivacyError, ProtocolError):
    """A sealed message does not open with this key in this context, or a sealing key is none."""


class SuiteError(PrivacyError, UsageError, ProtocolError):
    """A way of sealing is unknown, or the installed library has it not; the message says which has."""


class FleetFolderError(PrivacyError, UsageError):
    """A file of keys or certificates is missing, broken, readable by others or does not fit the rest.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.path = path


class SecureSumError(PrivacyError, ProtocolError):
    """Base of what a misbehaving peer can cause in a secure sum."""


class RefusedTermsError(SecureSumError):
    """The terms of a sum are out of range or against this party's own policy."""


class BadRosterError(SecureSumError):
    """A list of members hides, doubles or invents somebody."""


class BadKeyError(SecureSumError):
    """A public key is a point of small order: what is agreed with it is known to everybody."""


class WrongContextError(SecureSumError):
    """A message belongs to another sum."""


class BadSignatureError(SecureSumError):
    """A signature does not fit the message and the certificate's key."""


class BadSharesError(SecureSumError):
    """Shares do not belong to one secret, or are no shares at all.

    Attributes:
        culprits: Names of the members whose shares are to blame, as far as they are known.
    """

    def __init__(self, message: str, culprits: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.culprits = culprits


class UnknownPeerError(SecureSumError):
    """A sender or a slot that has no say at this point."""


class OutOfOrderError(SecureSumError):
    """A message came out of its turn, or differs from the one already answered."""


class LateUploadError(OutOfOrderError):
    """An update came after its sender was declared lost; its masks are taken out of the sum."""


class MaskReuseError(SecureSumError):
    """A second vector was to be masked by the same masks; their difference would show."""


class TooFewPeersError(SecureSumError):
    """Fewer members than the threshold or the minimum.

    Attributes:
        present: Members there.
        needed: Members without which the sum would show too much or could not be unmasked.
    """

    def __init__(self, what: str, present: int, needed: int) -> None:
        super().__init__(what, present, needed)  # what pickle calls this with again
        self.present = present
        self.needed = needed

    def __str__(self) -> str:
        return "{}: {}, needed are {}".format(*self.args)


class ReleaseFormatError(PrivacyError, ProtocolError):
    """A name, path or text of a release repository is not what we write."""


class ReleaseCounterError(PrivacyError, ProtocolError):
    """A release's counter is below what must be, or absurdly high."""
