"""The files of TLS: the TLS CA's in the fleet's folder, a server's in a folder of its own.

fleet's folder    tls-ca.key   private; under the passphrase of ca.key, if there is one
                  tls-ca.pem   certificate: what vehicles pin
server's folder   server.key   private
                  server.pem   certificate for the hosts of the server
                  tls-ca.pem   for clients on the same machine
"""

from datetime import datetime
from pathlib import Path
from typing import Final

from convoy_privacy import key_files
from convoy_privacy.errors import FleetFolderError
from convoy_privacy.tls_authority import TlsAuthority, TlsIdentity

TLS_CA_KEY: Final = "tls-ca.key"
TLS_CA_CERTIFICATE: Final = "tls-ca.pem"
SERVER_KEY: Final = "server.key"
SERVER_CERTIFICATE: Final = "server.pem"


def tls_authority(folder: Path, now: datetime, passphrase: bytes | None = None) -> TlsAuthority:
    """The TLS CA in a fleet's folder; made there if there is none yet.

    Args:
        folder: Of the fleet's CA, locked by the caller.
        now: With a time zone.
        passphrase: Of ca.key; None: it has none.

    Raises:
        FleetFolderError: A file is broken or readable by others, or the passphrase is wrong.
    """
    if (folder / TLS_CA_CERTIFICATE).exists():
        private_key = key_files.read_tls_key(folder / TLS_CA_KEY, passphrase)
        certificate = key_files.read_certificate(folder / TLS_CA_CERTIFICATE)
        return TlsAuthority(certificate=certificate, private_key=private_key)
    authority = TlsAuthority.create(now)
    # The certificate last: a key without one, which a crash leaves, has never signed anything.
    key_files.write_tls_key(folder / TLS_CA_KEY, authority.private_key, passphrase)
    key_files.write_certificate(folder / TLS_CA_CERTIFICATE, authority.certificate)
    return authority


def save_server(folder: Path, authority: TlsAuthority, server: TlsIdentity) -> None:
    """Write a server's files into a new or empty folder.

    Raises:
        FleetFolderError: The folder holds something, or a file cannot be written.
    """
    key_files.make_new_folder(folder)
    key_files.write_tls_key(folder / SERVER_KEY, server.private_key)
    key_files.write_certificate(folder / TLS_CA_CERTIFICATE, authority.certificate)
    key_files.write_certificate(folder / SERVER_CERTIFICATE, server.certificate)


def read_tls_ca(path: Path) -> bytes:
    """The certificate of a TLS CA, DER.

    Raises:
        FleetFolderError: Missing, or no certificate in PEM.
    """
    if not path.exists():
        raise FleetFolderError(
            path, "no such file; `convoy fleet add FLEET NAME --role server --host HOST` makes it"
        )
    return key_files.read_certificate(path)
