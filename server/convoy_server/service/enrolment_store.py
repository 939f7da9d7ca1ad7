"""The folder in which the server keeps tokens, what came of them, and renewals that were asked for.

enrolments/
  ca.pem                   the fleet's CA: no other may sign
  tokens/ID/token.json     name, role, end, SHA-256 of the secret
            keys.json      of the device that used the token
            certificate.pem
            refused.json   why the CA did not sign
            node.json      what Flower was told of the node key
  renewals/SERIAL/request.json     the certificate held and the signature of its key
                  certificate.pem  the one after it
                  refused.json

One file for each thing that happens, written once and whole: the service, `convoy fleet enroll` and
`convoy fleet sign` never write the same one, and a copy of the folder can be signed elsewhere and copied
back. Folders have mode 0700, files 0600 unless they are certificates.
"""

import base64
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from convoy_privacy import key_files
from convoy_privacy.certificates import Role
from convoy_privacy.party import CA_CERTIFICATE
from convoy_protos.errors import UsageError
from convoy_protos.v1.enrolment_pb2 import RenewRequest
from convoy_server.service.enrolment_book import DeviceKeys, Enrolment, Node

ENROLMENTS_FOLDER: Final = "enrolments"
"""Its name in the state folder of the service."""

_TOKEN: Final = "token.json"  # noqa: S105 - a file's name
_KEYS: Final = "keys.json"
_REQUEST: Final = "request.json"
_CERTIFICATE: Final = "certificate.pem"
_STAGED: Final = "staged.pem"
_REFUSED: Final = "refused.json"
_NODE: Final = "node.json"

_TOKEN_FOLDER: Final = re.compile(r"[0-9a-f]{16}")
_RENEWAL_FOLDER: Final = re.compile(r"[0-9a-f]{1,40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """A certificate that was asked for after the one held.

    Attributes:
        serial: Of the one held.
        request: As it came.
        certificate: The one after it, DER; empty: not signed yet.
        refusal: Why the CA did not sign; empty: it did, or was not asked.
    """

    serial: int
    request: RenewRequest
    certificate: bytes = b""
    refusal: str = ""


class EnrolmentStore:
    """The folder.

    Attributes:
        folder: Made where it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        for each in (folder, self._tokens, self._renewals):
            each.mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among threads and processes: two devices with one token would both be bound to it."""
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @property
    def ca_public_key(self) -> bytes:
        """Whose signature is wanted, raw Ed25519."""
        return key_files.read_pinned_key(self.folder / CA_CERTIFICATE)

    def keep_ca(self, certificate: bytes) -> None:
        """Say whose signature is wanted."""
        key_files.write_certificate(self.folder / CA_CERTIFICATE, certificate)

    def add(self, enrolment: Enrolment) -> None:
        """Keep a new token."""
        folder = self._token_folder(enrolment.token_id)
        folder.mkdir(mode=0o700)
        token = {
            "name": enrolment.name,
            "role": enrolment.role.value,
            "secret_sha256": enrolment.secret_sha256.hex(),
            "expires": enrolment.expires.isoformat(),
        }
        _write_json(folder / _TOKEN, token)

    def remove(self, token_id: bytes) -> None:
        """Forget a token."""
        shutil.rmtree(self._token_folder(token_id))

    def bind(self, token_id: bytes, keys: DeviceKeys) -> None:
        """Keep whose token it is from now on."""
        written = {"identity_key": keys.identity_key.hex(), "node_key": keys.node_key.decode()}
        _write_json(self._token_folder(token_id) / _KEYS, written)

    def set_node(self, token_id: bytes, node: Node) -> None:
        """Keep what Flower was told."""
        _write_json(self._token_folder(token_id) / _NODE, {"node": node.value})

    def enrolment(self, token_id: bytes) -> Enrolment | None:
        """What came of a token; None: there is none of this id.

        Raises:
            UsageError: A file is broken.
        """
        folder = self._token_folder(token_id)
        return _enrolment(folder) if (folder / _TOKEN).exists() else None

    def enrolments(self) -> list[Enrolment]:
        """Every token, by name."""
        folders = (each for each in self._tokens.iterdir() if _TOKEN_FOLDER.fullmatch(each.name))
        found = [_enrolment(each) for each in folders if (each / _TOKEN).exists()]
        return sorted(found, key=lambda one: (one.name, one.token_id))

    def add_renewal(self, serial: int, request: RenewRequest) -> None:
        """Keep that a certificate is asked for; what was kept before stays."""
        folder = self._renewal_folder(serial)
        if (folder / _REQUEST).exists():
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        written = {
            "certificate": _text(request.certificate),
            "signature": _text(request.signature),
        }
        _write_json(folder / _REQUEST, written)

    def renewal(self, serial: int) -> Renewal | None:
        """The renewal of the certificate with this number; None: nobody asked."""
        folder = self._renewal_folder(serial)
        return _renewal(folder) if (folder / _REQUEST).exists() else None

    def renewals(self) -> list[Renewal]:
        """Every renewal that was asked for."""
        folders = (
            each for each in self._renewals.iterdir() if _RENEWAL_FOLDER.fullmatch(each.name)
        )
        found = [_renewal(each) for each in folders if (each / _REQUEST).exists()]
        return sorted(found, key=lambda one: one.serial)

    def place(self, one: Enrolment | Renewal) -> Path:
        """Where it is kept."""
        if isinstance(one, Enrolment):
            return self._token_folder(one.token_id)
        return self._renewal_folder(one.serial)

    def staged(self, one: Enrolment | Renewal) -> bytes:
        """A certificate that may not be in the CA's book yet, DER; empty: none."""
        path = self.place(one) / _STAGED
        return key_files.read_certificate(path) if path.exists() else b""

    def stage(self, one: Enrolment | Renewal, certificate: bytes) -> None:
        """Keep a certificate until the CA's book has it."""
        folder = self.place(one)
        (folder / _REFUSED).unlink(missing_ok=True)
        key_files.write_certificate(folder / _STAGED, certificate)

    def unstage(self, one: Enrolment | Renewal) -> None:
        """Forget a certificate that the CA's book has not."""
        (self.place(one) / _STAGED).unlink()

    def issue(self, one: Enrolment | Renewal) -> None:
        """Give out the certificate that was staged."""
        folder = self.place(one)
        (folder / _STAGED).replace(folder / _CERTIFICATE)

    def refuse(self, one: Enrolment | Renewal, why: str) -> None:
        """Keep why the CA does not sign, for the device."""
        _write_json(self.place(one) / _REFUSED, {"why": why})

    @property
    def _tokens(self) -> Path:
        return self.folder / "tokens"

    @property
    def _renewals(self) -> Path:
        return self.folder / "renewals"

    def _token_folder(self, token_id: bytes) -> Path:
        return self._tokens / token_id.hex()

    def _renewal_folder(self, serial: int) -> Path:
        return self._renewals / f"{serial:x}"


def _enrolment(folder: Path) -> Enrolment:
    token, keys = _read_json(folder / _TOKEN), _read_json(folder / _KEYS)
    node = _read_json(folder / _NODE)
    try:
        return Enrolment(
            token_id=bytes.fromhex(folder.name),
            name=str(token["name"]),
            role=Role(token["role"]),
            secret_sha256=bytes.fromhex(token["secret_sha256"]),
            expires=datetime.fromisoformat(token["expires"]),
            keys=DeviceKeys(
                identity_key=bytes.fromhex(keys["identity_key"]), node_key=keys["node_key"].encode()
            )
            if keys
            else None,
            certificate=_certificate_in(folder),
            refusal=_refusal_in(folder),
            node=Node(node["node"]) if node else Node.UNKNOWN,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{folder}: not what an enrolment looks like ({error!r})") from error


def _renewal(folder: Path) -> Renewal:
    request = _read_json(folder / _REQUEST)
    try:
        return Renewal(
            serial=int(folder.name, 16),
            request=RenewRequest(
                certificate=base64.b64decode(request["certificate"], validate=True),
                signature=base64.b64decode(request["signature"], validate=True),
            ),
            certificate=_certificate_in(folder),
            refusal=_refusal_in(folder),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{folder}: not what a renewal looks like ({error!r})") from error


def _certificate_in(folder: Path) -> bytes:
    path = folder / _CERTIFICATE
    return key_files.read_certificate(path) if path.exists() else b""


def _refusal_in(folder: Path) -> str:
    refused = _read_json(folder / _REFUSED)
    return str(refused.get("why", "")) if refused else ""


def _write_json(path: Path, table: Mapping[str, str]) -> None:
    key_files.write_file(path, json.dumps(table, indent=1).encode() + b"\n", private=True)


def _read_json(path: Path) -> dict[str, Any]:
    """A file's table; empty where it is not there."""
    if not path.exists():
        return {}
    try:
        table = json.loads(key_files.read_file(path))
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if not isinstance(table, dict):
        raise UsageError(f"{path}: expected a JSON object")
    return table


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
