"""Who belongs to the fleet: certificates of its CA, checked against the key pinned on this machine.

Source: X.509 certificates and revocation lists of RFC 5280, signed with Ed25519 (RFC 8410).

    certificate   subject CN = name, OU = role; critical BasicConstraints CA=false, critical
                  KeyUsage digitalSignature; random serial number
    list          every revoked serial; CRLNumber grows with each issue; nextUpdate ends it

The CA's signature is checked over the raw bytes before any of them is parsed: a stranger's bytes
never reach the X.509 parser, and one certificate has one encoding only.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtensionOID, NameOID

from convoy_privacy.errors import BadSignatureError, RevocationListError, UntrustedPeerError

MAX_CERTIFICATE_BYTES: Final = 2048
MAX_LIST_BYTES: Final = 1 << 20
"""About 30,000 revoked certificates."""

MAX_NAME_BYTES: Final = 64
"""X.509's bound for a common name (RFC 5280, appendix A.1), in UTF-8."""

# How a structure that was signed with Ed25519 ends: the algorithm, then a bit string of 64 bytes.
_ED25519_TAIL: Final = bytes.fromhex("300506032b6570 034100")
_SIGNATURE_BYTES: Final = 64

_KNOWN_CRITICAL: Final = {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE}


class Role(Enum):
    """What the CA lets a party be; the value stands in its certificate."""

    VEHICLE = "vehicle"
    AGGREGATOR = "aggregator"
    HELPER = "helper"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """This party itself.

    Attributes:
        certificate: X.509, DER, as it is sent to peers.
        signing_key: The certificate's private key; never leaves this machine.
        name: The certificate's.
    """

    certificate: bytes
    signing_key: Ed25519PrivateKey = field(repr=False)
    name: str

    def sign(self, message: bytes) -> bytes:
        """64 bytes; the same for the same message. The message starts with a label of its own."""
        return self.signing_key.sign(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A party that the fleet's CA vouches for.

    Attributes:
        name: Unique among the certificates in force.
        role: The only one it may act in.
        public_key: Ed25519.
        serial: Of the certificate.
    """

    name: str
    role: Role
    public_key: Ed25519PublicKey
    serial: int

    def check_signature(self, signature: bytes, message: bytes) -> None:
        """Refuse what this member did not sign.

        Raises:
            BadSignatureError: Signed by somebody else, or something else was signed.
        """
        try:
            self.public_key.verify(signature, message)
        except InvalidSignature:
            raise BadSignatureError(f"a signature is not {self.name}'s over this message") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocations:
    """A list of revoked certificates, its signature checked.

    Attributes:
        number: Grows with each issue.
        serials: What is revoked.
        next_update: From then on the list is too old to go by.
        der: As the CA signed it.
    """

    number: int
    serials: frozenset[int] = field(repr=False)
    next_update: datetime
    der: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Trust:
    """What a party goes by when it meets another.

    Attributes:
        ca_public_key: Raw Ed25519, 32 bytes, pinned when the party was set up; never from a peer.
        revocations: The newest list seen; None: none yet.
    """

    ca_public_key: bytes
    revocations: Revocations | None = None

    def verify(self, certificate_der: bytes, role: Role, now: datetime) -> Member:
        """The party behind a certificate.

        Args:
            certificate_der: Hostile.
            role: What the party wants to act as.
            now: With a time zone.

        Raises:
            UntrustedPeerError: Not by our CA, another role, expired, not yet valid or revoked.
        """
        found = _certified(self.ca_public_key, bytes(certificate_der))
        name = found.member.name
        if found.member.role is not role:
            raise UntrustedPeerError(
                name, f"its role is {found.member.role.value}, not {role.value}"
            )
        if now < found.not_before:
            raise UntrustedPeerError(
                name, f"its certificate is not valid before {found.not_before}"
            )
        if now > found.not_after:
            raise UntrustedPeerError(name, f"its certificate expired at {found.not_after}")
        if self.revocations and found.member.serial in self.revocations.serials:
            raise UntrustedPeerError(name, "its certificate is revoked")
        return found.member

    def with_revocations(self, crl_der: bytes, now: datetime) -> "Trust":
        """Go by a list that a peer passed on, if it is as new as the one held.

        Args:
            crl_der: Hostile. Empty: the peer has none, so the one held must do; call this all the same,
                or silence would get around the end of the list.
            now: With a time zone.

        Raises:
            RevocationListError: Not by our CA, too old, or older than the one held.
        """
        held = self.revocations
        fresh = read_revocations(self.ca_public_key, bytes(crl_der)) if crl_der else held
        if fresh is None:
            return self
        if now >= fresh.next_update:
            raise RevocationListError(
                f"revocation list {fresh.number} ended at {fresh.next_update}: "
                "`convoy fleet revoke DIR` issues a new one"
            )
        if held is not None and fresh.number < held.number:
            raise RevocationListError(
                f"revocation list {fresh.number} is older than {held.number}, which is held"
            )
        if held is not None and fresh.number == held.number and fresh.der != held.der:
            # An old copy of the CA was at work, and one of the two lists forgets somebody.
            raise RevocationListError(f"two different revocation lists of number {held.number}")
        return replace(self, revocations=fresh)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """What a certificate of our CA says, whether or not it is in force.

    Attributes:
        member: Who it names.
        not_before: From when on it counts.
        not_after: Until when.
    """

    member: Member
    not_before: datetime
    not_after: datetime


def certified(ca_public_key: bytes, certificate_der: bytes) -> Certified:
    """What a certificate says; whether it is in force is for Trust.verify to tell.

    Raises:
        UntrustedPeerError: Not by this CA.
    """
    return _certified(ca_public_key, bytes(certificate_der))


@lru_cache(maxsize=16)
def read_revocations(ca_public_key: bytes, crl_der: bytes) -> Revocations:
    """A list of revoked certificates, however old.

    Raises:
        RevocationListError: Not by this CA, or not a complete list.
    """
    try:
        _check_signed(ca_public_key, crl_der, MAX_LIST_BYTES)
        return _revocations(x509.load_der_x509_crl(crl_der), crl_der)
    except x509.ExtensionNotFound as error:
        raise RevocationListError("a revocation list is refused: it has no number") from error
    except (_RefusedError, ValueError) as error:
        raise RevocationListError(f"a revocation list is refused: {error}") from error


def check_name(name: str) -> None:
    """Refuse what cannot name a party.

    Raises:
        ValueError: Empty, not printable, spaces at an end, over 64 bytes in UTF-8, or "node-...", as the
            server calls a vehicle that has not introduced itself.
    """
    sized = name.isprintable() and 1 <= len(name.encode()) <= MAX_NAME_BYTES
    if not sized or name != name.strip() or name.startswith("node-"):
        raise ValueError(
            f"{name!r} is no name: 1 to {MAX_NAME_BYTES} bytes of printable text without spaces at "
            'its ends, not "node-..."'
        )


class _RefusedError(Exception):
    """Says why; becomes the documented error of whoever asked."""


@lru_cache(maxsize=4096)
def _certified(ca_public_key: bytes, certificate_der: bytes) -> Certified:
    """What never changes about a certificate. Only what the CA signed gets into the cache."""
    try:
        _check_signed(ca_public_key, certificate_der, MAX_CERTIFICATE_BYTES)
        certificate = x509.load_der_x509_certificate(certificate_der)
        return Certified(
            member=_member(certificate),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
        )
    except x509.ExtensionNotFound as error:
        raise UntrustedPeerError("a peer", "its certificate does not say what it is for") from error
    except (_RefusedError, ValueError) as error:
        raise UntrustedPeerError("a peer", str(error)) from error


def _revocations(crl: x509.CertificateRevocationList, crl_der: bytes) -> Revocations:
    # Lists of changes or of a part only are marked by critical extensions.
    if any(extension.critical for extension in crl.extensions) or crl.next_update_utc is None:
        raise _RefusedError("it is not a complete list, or has no end")
    return Revocations(
        number=crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number,
        serials=frozenset(revoked.serial_number for revoked in crl),
        next_update=crl.next_update_utc,
        der=crl_der,
    )


def _member(certificate: x509.Certificate) -> Member:
    extensions = certificate.extensions
    if any(one.critical and one.oid not in _KNOWN_CRITICAL for one in extensions):
        raise _RefusedError("its certificate has a critical extension that is unknown here")
    is_ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    public_key = certificate.public_key()
    if is_ca or not usage.digital_signature or not isinstance(public_key, Ed25519PublicKey):
        raise _RefusedError("its certificate is not one of a vehicle, an aggregator or a helper")
    name = _single(certificate.subject, NameOID.COMMON_NAME)
    check_name(name)
    return Member(
        name=name,
        role=Role(_single(certificate.subject, NameOID.ORGANIZATIONAL_UNIT_NAME)),
        public_key=public_key,
        serial=certificate.serial_number,
    )


def _single(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    values = [attribute.value for attribute in name.get_attributes_for_oid(oid)]
    if len(values) != 1 or not isinstance(values[0], str):
        raise _RefusedError("its certificate does not hold one name and one role")
    return values[0]


def _check_signed(ca_public_key: bytes, der: bytes, max_bytes: int) -> None:
    """Refuse what is not exactly SEQUENCE { signed part, Ed25519, the CA's signature }."""
    if not len(_ED25519_TAIL) + _SIGNATURE_BYTES + 2 < len(der) <= max_bytes:
        raise _RefusedError(f"{len(der)} bytes are too few or too many")
    start = 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)
    end = len(der) - len(_ED25519_TAIL) - _SIGNATURE_BYTES
    tail = der[end:-_SIGNATURE_BYTES]
    if der[:start] != _sequence_header(len(der) - start) or tail != _ED25519_TAIL:
        raise _RefusedError("it is not signed with Ed25519")
    try:
        Ed25519PublicKey.from_public_bytes(ca_public_key).verify(
            der[-_SIGNATURE_BYTES:], der[start:end]
        )
    except InvalidSignature:
        raise _RefusedError("it is not signed by the fleet's CA") from None


def _sequence_header(length: int) -> bytes:
    if length < 0x80:
        return bytes((0x30, length))
    size = (length.bit_length() + 7) // 8
    return bytes((0x30, 0x80 | size)) + length.to_bytes(size, "big")
