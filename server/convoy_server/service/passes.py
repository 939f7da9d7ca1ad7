"""Passes: TLS certificates of a few days that say, at services that ask, which member calls.

A member signs for a TLS key of its own with its identity; the server's own CA, in STATE/passes, certifies
it. That CA is believed by this server's services alone: whoever steals it can call them, and vehicles
believe nothing that a call says. A pass names the serial number of the member's certificate, so the fleet's
list of revocations ends it at once.
"""

from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from convoy_privacy import key_files
from convoy_privacy.certificates import Member, Revocations, Trust, certified
from convoy_privacy.errors import BadSignatureError, UntrustedPeerError
from convoy_privacy.fleet_store import locked
from convoy_privacy.party import CA_CERTIFICATE, REVOCATIONS
from convoy_privacy.tls_authority import TlsAuthority
from convoy_privacy.tls_files import tls_authority
from convoy_protos.enrolment_token import pass_bytes
from convoy_protos.v1.enrolment_pb2 import PassReply, PassRequest
from convoy_server.errors import EnrolmentRefusedError, Refusal

PASSES_FOLDER: Final = "passes"
"""Its name in the state folder of the service."""
PASS_DAYS: Final = 7

_MAX_KEY_BYTES: Final = 256


class MemberList:
    """Who belongs to the fleet, by the list of revocations that lies in the aggregator's folder now."""

    def __init__(self, party: Path) -> None:
        """Nothing is read yet.

        Args:
            party: The aggregator's folder.
        """
        self._party = party
        self._read_at: tuple[int, int] | None = None
        self._trust: Trust | None = None

    def trust(self) -> Trust:
        """The fleet's CA and its newest list.

        Raises:
            FleetFolderError: A file is missing or broken.
        """
        path = self._party / REVOCATIONS
        try:
            found = path.stat()
            written = (found.st_mtime_ns, found.st_ino)
        except OSError:
            written = (0, 0)  # reading says what is wrong
        if self._trust is None or written != self._read_at:
            ca_public_key = key_files.read_pinned_key(self._party / CA_CERTIFICATE)
            revocations: Revocations = key_files.read_revocation_file(path, ca_public_key)
            self._trust, self._read_at = Trust(ca_public_key, revocations), written
        return self._trust

    def has(self, _name: str, membership: int) -> bool:
        """Whether a member's certificate, by its serial number, is not revoked."""
        revocations = self.trust().revocations
        return revocations is not None and membership not in revocations.serials


class PassOffice:
    """Gives passes out."""

    def __init__(self, authority: TlsAuthority, members: MemberList) -> None:
        """Nobody has asked.

        Args:
            authority: Of passes.
            members: Who may have one.
        """
        self._authority = authority
        self._members = members

    def issue(self, request: PassRequest, now: datetime) -> PassReply:
        """A pass for whoever belongs to the fleet.

        Raises:
            EnrolmentRefusedError: No member, or no key for TLS.
            FleetFolderError: The server's own files are broken.
        """
        member, key = check_pass(request, self._members.trust(), now)
        certificate = self._authority.certify_client(
            member.name, member.serial, key, now, PASS_DAYS
        )
        return PassReply(tls_certificate=certificate)


def pass_authority(state: Path, now: datetime) -> TlsAuthority:
    """The CA of passes; made when it is first needed.

    Args:
        state: Folder of the service.
        now: With a time zone.

    Raises:
        FleetFolderError: A file is broken, or cannot be written.
    """
    folder = state / PASSES_FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(folder):
        return tls_authority(folder, now)


def check_pass(
    request: PassRequest, trust: Trust, now: datetime
) -> tuple[Member, EllipticCurvePublicKey]:
    """Whom a pass is for, and the key that it names.

    Args:
        request: Hostile.
        trust: The fleet's CA and its newest list of revocations.
        now: With a time zone.

    Raises:
        EnrolmentRefusedError: Not in force, signed by another key, or no key for TLS.
    """
    signed = pass_bytes(request.certificate, request.tls_public_key)
    try:
        role = certified(trust.ca_public_key, request.certificate).member.role
        member = trust.verify(request.certificate, role, now)
        member.check_signature(request.signature, signed)
    except (UntrustedPeerError, BadSignatureError) as error:
        raise EnrolmentRefusedError(
            Refusal.UNTRUSTED, f"{error}; to come back, join with a new token"
        ) from error
    if len(request.tls_public_key) > _MAX_KEY_BYTES:
        raise EnrolmentRefusedError(Refusal.MALFORMED, "the TLS key is too long")
    try:
        key = load_der_public_key(request.tls_public_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EnrolmentRefusedError(Refusal.MALFORMED, "the TLS key is none") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise EnrolmentRefusedError(Refusal.MALFORMED, "the TLS key must be one on P-256")
    return member, key
