"""The folder of the fleet's CA, which `convoy fleet init` makes; it stays off the network.

ca.key        private; may be protected by a passphrase
ca.pem        certificate
fleet.json    the book: every certificate issued, and which are revoked
revoked.crl   the newest list of revocations, made of the book
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from convoy_privacy import key_files
from convoy_privacy.certificates import Revocations, Role
from convoy_privacy.errors import FleetFolderError
from convoy_privacy.fleet_authority import FleetAuthority, IssuedCertificate
from convoy_privacy.party import CA_CERTIFICATE, REVOCATIONS

CA_KEY: Final = "ca.key"
BOOK: Final = "fleet.json"

_BOOK_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """What may be read of a CA without its key.

    Attributes:
        ca_public_key: Raw Ed25519.
        issued: Oldest first.
        revocations: The newest list.
    """

    ca_public_key: bytes
    issued: tuple[IssuedCertificate, ...]
    revocations: Revocations


def create_fleet(folder: Path, authority: FleetAuthority, passphrase: bytes | None = None) -> None:
    """Write a new CA into a new or empty folder.

    Raises:
        FleetFolderError: The folder holds something, or a file cannot be written.
    """
    key_files.make_new_folder(folder)
    key_files.write_signing_key(folder / CA_KEY, authority.signing_key, passphrase)
    key_files.write_certificate(folder / CA_CERTIFICATE, authority.certificate)
    save_fleet(folder, authority)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone in the CA's folder: of two commands at once, one would lose the other's entry in the book."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise FleetFolderError(folder, "no such folder; `convoy fleet init` makes one") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def load_fleet(folder: Path, passphrase: bytes | None = None) -> FleetAuthority:
    """The CA with its key and its book.

    Raises:
        FleetFolderError: A file is missing, broken or readable by others, the files do not fit together,
            or the passphrase is wrong.
    """
    book = load_book(folder)
    signing_key = key_files.read_signing_key(folder / CA_KEY, passphrase)
    if signing_key.public_key().public_bytes_raw() != book.ca_public_key:
        raise FleetFolderError(folder / CA_CERTIFICATE, f"belongs to another key than {CA_KEY}")
    certificate = key_files.read_certificate(folder / CA_CERTIFICATE)
    return FleetAuthority(signing_key, certificate, book.revocations.der, book.issued)


def save_fleet(folder: Path, authority: FleetAuthority) -> None:
    """Keep the book, then the list of revocations.

    In this order the next list heals a crash in between: it is made of the book. A book behind its
    list would make the next list forget somebody.
    """
    book = {
        "version": _BOOK_VERSION,
        "certificates": [contract(one) for one in authority.issued],
    }
    key_files.write_file(folder / BOOK, json.dumps(book, indent=1).encode() + b"\n")
    key_files.write_file(folder / REVOCATIONS, authority.revocation_list)


def load_book(folder: Path) -> Book:
    """Whom the CA admitted and revoked; needs neither its key nor the passphrase.

    Raises:
        FleetFolderError: A file is missing or broken.
    """
    path = folder / BOOK
    data = key_files.read_file(path)
    try:
        document = json.loads(data)
        if document["version"] != _BOOK_VERSION:
            raise FleetFolderError(path, f"expected version {_BOOK_VERSION} of the book")
        issued = tuple(_entry(line) for line in document["certificates"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FleetFolderError(path, f"not the book of a fleet ({error!r})") from error
    ca_public_key = key_files.read_pinned_key(folder / CA_CERTIFICATE)
    revocations = key_files.read_revocation_file(folder / REVOCATIONS, ca_public_key)
    return Book(ca_public_key=ca_public_key, issued=issued, revocations=revocations)


def contract(one: IssuedCertificate) -> dict[str, Any]:
    """One certificate as the book and `convoy fleet list --json` write it."""
    return {
        "name": one.name,
        "role": one.role.value,
        "serial": f"{one.serial:x}",
        "expires": one.expires.isoformat(),
        "revoked": one.revoked.isoformat() if one.revoked else None,
    }


def _entry(line: dict[str, Any]) -> IssuedCertificate:
    return IssuedCertificate(
        name=line["name"],
        role=Role(line["role"]),
        serial=int(line["serial"], 16),
        expires=datetime.fromisoformat(line["expires"]),
        revoked=datetime.fromisoformat(line["revoked"]) if line["revoked"] else None,
    )
