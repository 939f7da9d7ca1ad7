"""The folder of one party, which `convoy fleet add` makes: who it is and whom it trusts.

identity.key   private; where the party made it itself, it has never been elsewhere
identity.pem   certificate
ca.pem         certificate of the fleet's CA, whose key is pinned by this file
revoked.crl    list of revocations held; replaced by newer ones that peers bring
sealing.key    private; aggregators and helpers only
"""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from convoy_privacy import key_files
from convoy_privacy.certificates import Identity, Role, Trust, certified
from convoy_privacy.errors import FleetFolderError, UntrustedPeerError
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.sealing import SealingKey

IDENTITY_KEY: Final = "identity.key"
IDENTITY_CERTIFICATE: Final = "identity.pem"
CA_CERTIFICATE: Final = "ca.pem"
REVOCATIONS: Final = "revoked.crl"
SEALING_KEY: Final = "sealing.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Who this machine is and whom it trusts.

    Attributes:
        identity: Its certificate and key.
        role: What the CA lets it be.
        trust: The pinned CA and the list of revocations held.
        sealing_key: What peers seal to; None: nobody seals to this party.
    """

    identity: Identity
    role: Role
    trust: Trust
    sealing_key: SealingKey | None


def load_party(folder: Path, now: datetime) -> Party:
    """Read a party's folder.

    A list of revocations that is too old is held all the same: peers bring newer ones, and what it
    revokes stays revoked.

    Args:
        folder: With the party's files.
        now: With a time zone.

    Raises:
        FleetFolderError: A file is missing, broken or readable by others, the files do not fit together,
            or the certificate is not in force.
    """
    ca_public_key = key_files.read_pinned_key(folder / CA_CERTIFICATE)
    revocations = key_files.read_revocation_file(folder / REVOCATIONS, ca_public_key)
    trust = Trust(ca_public_key, revocations)
    signing_key = key_files.read_signing_key(folder / IDENTITY_KEY)
    certificate = key_files.read_certificate(folder / IDENTITY_CERTIFICATE)
    try:
        role = certified(ca_public_key, certificate).member.role
        member = trust.verify(certificate, role, now)
    except UntrustedPeerError as error:
        raise FleetFolderError(folder / IDENTITY_CERTIFICATE, str(error)) from error
    if member.public_key != signing_key.public_key():
        raise FleetFolderError(
            folder / IDENTITY_CERTIFICATE, f"belongs to another key than {IDENTITY_KEY} beside it"
        )
    sealing = folder / SEALING_KEY
    return Party(
        identity=Identity(certificate=certificate, signing_key=signing_key, name=member.name),
        role=role,
        trust=trust,
        sealing_key=key_files.read_sealing_key(sealing) if sealing.exists() else None,
    )


def save_party(
    folder: Path,
    authority: FleetAuthority,
    certificate: bytes,
    signing_key: Ed25519PrivateKey | None = None,
    sealing_key: SealingKey | None = None,
) -> None:
    """Write a party's files into a new or empty folder.

    Args:
        folder: Made if it is not there.
        authority: Whose certificate and list of revocations go with them.
        certificate: The party's, DER.
        signing_key: The party's; None: the party made it and keeps it.
        sealing_key: The party's, if peers seal to it.

    Raises:
        FleetFolderError: The folder holds something, or a file cannot be written.
    """
    key_files.make_new_folder(folder)
    if signing_key is not None:
        key_files.write_signing_key(folder / IDENTITY_KEY, signing_key)
    if sealing_key is not None:
        key_files.write_sealing_key(folder / SEALING_KEY, sealing_key)
    key_files.write_certificate(folder / CA_CERTIFICATE, authority.certificate)
    key_files.write_file(folder / REVOCATIONS, authority.revocation_list)
    key_files.write_certificate(folder / IDENTITY_CERTIFICATE, certificate)


def with_newest_revocations(party: Party, folder: Path) -> Party:
    """The same party, going by the list that lies in its folder now, if that is newer.

    However old it is, as for `load_party`.

    Args:
        party: As read before.
        folder: Where it was read from.

    Raises:
        FleetFolderError: The file is missing, or not by the CA that this party trusts.
    """
    held = party.trust.revocations
    found = key_files.read_revocation_file(folder / REVOCATIONS, party.trust.ca_public_key)
    if held is not None and found.number <= held.number:
        return party
    return replace(party, trust=replace(party.trust, revocations=found))


def save_revocations(folder: Path, trust: Trust) -> None:
    """Keep the list held in the party's folder, so that a restart does not forget it."""
    if trust.revocations is not None:
        key_files.write_file(folder / REVOCATIONS, trust.revocations.der)
