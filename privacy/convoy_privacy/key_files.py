"""Keys and certificates as single files: PEM for keys (PKCS #8) and certificates, DER for lists.

Every file is written whole or not at all. Private ones are made with mode 0600, and refused, as ssh
refuses them, when others may read them. A sealing key is one line: "convoy sealing key/1 SUITE HEX-SEED".
"""

import os
import stat
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from convoy_privacy.certificates import Revocations, read_revocations
from convoy_privacy.errors import FleetFolderError, RevocationListError, SuiteError
from convoy_privacy.sealing import SealingKey, sealing_key

MIN_PASSPHRASE_BYTES: Final = 16
"""PKCS #8 as the library writes it stretches a passphrase little (2,048 rounds): length must do it."""

_SEALING_LABEL: Final = "convoy sealing key/1"


def make_new_folder(folder: Path) -> None:
    """Make a folder that only its owner reads.

    Raises:
        FleetFolderError: It is there and holds something, or cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FleetFolderError(folder, "holds files already; keys are never overwritten")
    except OSError as error:
        raise FleetFolderError(folder, f"{error.strerror}") from error


def read_file(path: Path, *, private: bool = False) -> bytes:
    """All of a file.

    Raises:
        FleetFolderError: It cannot be read, or it is private and others may read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if private and stat.S_ISREG(mode) and mode & 0o077:
                raise FleetFolderError(path, f"others may read this secret: chmod 600 {path}")
            return file.read()
    except OSError as error:
        raise FleetFolderError(path, f"{error.strerror}") from error


def write_file(path: Path, data: bytes, *, private: bool = False) -> None:
    """Create or replace a file, whole or not at all.

    Raises:
        FleetFolderError: It cannot be written.
    """
    temporary = path.with_name(f".unfinished-{path.name}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        temporary.unlink(missing_ok=True)  # of a crash
        with os.fdopen(os.open(temporary, flags, 0o600 if private else 0o644), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise FleetFolderError(path, f"{error.strerror}") from error


def read_signing_key(path: Path, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """A private key of a party or of the fleet's CA.

    Raises:
        FleetFolderError: Missing, broken, readable by others, or the passphrase does not fit.
    """
    key = _private_key(path, passphrase)
    if not isinstance(key, Ed25519PrivateKey):
        raise FleetFolderError(path, "not an Ed25519 key")
    return key


def write_signing_key(path: Path, key: Ed25519PrivateKey, passphrase: bytes | None = None) -> None:
    """Keep a private key; encrypted where there is a passphrase."""
    _write_private_key(path, key, passphrase)


def read_tls_key(path: Path, passphrase: bytes | None = None) -> EllipticCurvePrivateKey:
    """A private key for TLS; otherwise as `read_signing_key`."""
    key = _private_key(path, passphrase)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise FleetFolderError(path, "not a key on an elliptic curve, which TLS needs here")
    return key


def write_tls_key(
    path: Path, key: EllipticCurvePrivateKey, passphrase: bytes | None = None
) -> None:
    """Keep a private key for TLS; encrypted where there is a passphrase."""
    _write_private_key(path, key, passphrase)


def read_passphrase(path: Path) -> bytes:
    """A passphrase: the first line of a file.

    Raises:
        FleetFolderError: It cannot be read, is readable by others, or its first line is too short.
    """
    passphrase = read_file(path, private=True).split(b"\n", 1)[0].rstrip(b"\r")
    if len(passphrase) < MIN_PASSPHRASE_BYTES:
        raise FleetFolderError(
            path, f"a passphrase has at least {MIN_PASSPHRASE_BYTES} bytes, got {len(passphrase)}"
        )
    return passphrase


def read_certificate(path: Path) -> bytes:
    """A certificate, DER, unchecked.

    Raises:
        FleetFolderError: Missing, or no certificate in PEM.
    """
    return _certificate(path).public_bytes(Encoding.DER)


def write_certificate(path: Path, certificate_der: bytes) -> None:
    """Keep a certificate."""
    write_file(path, x509.load_der_x509_certificate(certificate_der).public_bytes(Encoding.PEM))


def read_pinned_key(path: Path) -> bytes:
    """The public key in a CA's certificate, raw Ed25519: whoever has this file trusts it.

    Raises:
        FleetFolderError: Missing, or no certificate of an Ed25519 key.
    """
    public_key = _certificate(path).public_key()
    if not isinstance(public_key, Ed25519PublicKey):
        raise FleetFolderError(path, "not the certificate of a fleet's CA")
    return public_key.public_bytes_raw()


def read_revocation_file(path: Path, ca_public_key: bytes) -> Revocations:
    """A list of revocations, however old.

    Raises:
        FleetFolderError: Missing, or not by this CA.
    """
    data = read_file(path)
    try:
        return read_revocations(ca_public_key, data)
    except RevocationListError as error:
        raise FleetFolderError(path, str(error)) from error


def read_request(path: Path) -> Ed25519PublicKey:
    """The public key that a party made itself and wants a certificate for.

    Only the key counts: names and extensions in a request are its sender's wish.

    Raises:
        FleetFolderError: Missing, not a request in PEM, or not signed by its own Ed25519 key.
    """
    data = read_file(path)
    try:
        request = x509.load_pem_x509_csr(data)
        public_key = request.public_key()
        signed = request.is_signature_valid
    except ValueError as error:
        raise FleetFolderError(path, "not a certificate signing request in PEM") from error
    if not signed or not isinstance(public_key, Ed25519PublicKey):
        raise FleetFolderError(path, "not signed by the Ed25519 key that it names")
    return public_key


def read_sealing_key(path: Path) -> SealingKey:
    """A private key to open sealed messages with.

    Raises:
        FleetFolderError: Missing, broken or readable by others, or of a suite that is not installed.
    """
    line = read_file(path, private=True).decode("ascii", "replace").strip()
    try:
        suite, seed = line.removeprefix(_SEALING_LABEL).split()
        return sealing_key(suite, bytes.fromhex(seed))
    except SuiteError as error:
        raise FleetFolderError(path, str(error)) from error
    except ValueError:
        # Without the cause: its message may quote the key.
        raise FleetFolderError(path, "not a sealing key") from None


def write_sealing_key(path: Path, key: SealingKey) -> None:
    """Keep a private key to open sealed messages with."""
    line = f"{_SEALING_LABEL} {key.suite} {key.seed.hex()}\n"
    write_file(path, line.encode(), private=True)


def _private_key(path: Path, passphrase: bytes | None) -> PrivateKeyTypes:
    data = read_file(path, private=True)
    try:
        return load_pem_private_key(data, passphrase)
    except TypeError as error:
        needs = "needs its passphrase: --passphrase-file FILE"
        raise FleetFolderError(path, "has no passphrase" if passphrase else needs) from error
    except ValueError as error:
        raise FleetFolderError(path, "not a private key in PEM, or a wrong passphrase") from error


def _write_private_key(
    path: Path, key: Ed25519PrivateKey | EllipticCurvePrivateKey, passphrase: bytes | None
) -> None:
    protection: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        protection = BestAvailableEncryption(passphrase)
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
    write_file(path, data, private=True)


def _certificate(path: Path) -> x509.Certificate:
    data = read_file(path)
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError as error:
        raise FleetFolderError(path, "not a certificate in PEM") from error
