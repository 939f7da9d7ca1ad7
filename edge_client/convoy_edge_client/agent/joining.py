"""Join a fleet with a token: keys are made on the device, and only their public halves leave it.

    STATE/identity.joining/   while joining: the keys, and which token they are for
    STATE/identity/           once joined, whole

Cut off anywhere, the same token again goes on with the same keys and gets the same certificate.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from convoy_edge_client.errors import EnrolmentError, ServerUnreachableError, VehicleConfigError
from convoy_privacy import key_files
from convoy_privacy.certificates import Role, Trust, read_revocations
from convoy_privacy.errors import FleetFolderError, RevocationListError, UntrustedPeerError
from convoy_privacy.party import (
    CA_CERTIFICATE,
    IDENTITY_CERTIFICATE,
    IDENTITY_KEY,
    REVOCATIONS,
    SEALING_KEY,
    load_party,
)
from convoy_privacy.sealing import X25519_SUITE, generate_sealing_key
from convoy_protos.enrolment_token import join_bytes
from convoy_protos.v1.enrolment_pb2 import EnrolmentReply, Issued, JoinRequest, JoinToken

_TOKEN_ID: Final = "token-id"  # noqa: S105 - a file's name
_NODE_KEY: Final = "node.key"
_FIRST_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPlaces:
    """Where a device keeps what it gets.

    Attributes:
        identity: Its party folder.
        node_key: Private key of its Flower node.
        root_certificates: The TLS CA that it trusts.
    """

    identity: Path
    node_key: Path
    root_certificates: Path


class Joined(Enum):
    """What came of it."""

    BEFORE = "joined before"
    NOW = "has joined"
    PENDING = "waits for the CA"


def join(
    token: JoinToken,
    places: JoinPlaces,
    ask: Callable[[JoinRequest], EnrolmentReply],
    now: datetime,
    *,
    wait: bool = True,
    on_pending: Callable[[], None] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Joined:
    """Become a member of the fleet that a token is for.

    Args:
        token: Checked by enrolment_token.read_token.
        places: Where keys and certificates go.
        ask: Sends a request to the service.
        now: With a time zone.
        wait: Whether to ask again until somebody has signed.
        on_pending: Called once when somebody must sign first.
        sleep: Waits.

    Raises:
        EnrolmentError: Refused, or what was issued does not fit the token.
        ServerUnreachableError: Nobody answers.
        VehicleConfigError: The device is a member already, under another name or of another fleet.
    """
    if _is_member(places, token, now):
        return Joined.BEFORE
    work = places.identity.with_name(f"{places.identity.name}.joining")
    identity_key, node_key = _own_keys(work, token)
    request = join_request(token, identity_key, node_key)
    issued = _issued(ask, request, on_pending, sleep, wait=wait)
    if issued is None:
        return Joined.PENDING
    check_issued(issued, token, identity_key.public_key(), now)
    _finish(issued, token, places, work, now)
    return Joined.NOW


def join_request(
    token: JoinToken, identity_key: Ed25519PrivateKey, node_key: ec.EllipticCurvePrivateKey
) -> JoinRequest:
    """What a device with a token sends."""
    request = JoinRequest(
        token_id=token.token_id,
        secret=token.secret,
        name=token.name,
        identity_key=identity_key.public_key().public_bytes_raw(),
        node_key=node_key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
    )
    request.signature = identity_key.sign(join_bytes(request))
    return request


def check_issued(
    issued: Issued, token: JoinToken, identity_key: Ed25519PublicKey, now: datetime
) -> None:
    """Refuse what is not a certificate of the token's fleet, for the token's name and this key.

    Raises:
        EnrolmentError: Says which of these.
    """
    try:
        ca_key = x509.load_der_x509_certificate(issued.ca_certificate).public_key()
        revocations = read_revocations(token.ca_public_key, issued.revocations)
        trust = Trust(token.ca_public_key, revocations)
        member = trust.verify(issued.certificate, Role(token.role), now)
    except (UntrustedPeerError, RevocationListError, ValueError) as error:
        raise EnrolmentError(
            f"what the server issued is not of the token's fleet, or this clock is wrong: {error}"
        ) from error
    pinned = isinstance(ca_key, Ed25519PublicKey) and (
        ca_key.public_bytes_raw() == token.ca_public_key
    )
    if not pinned or member.name != token.name or member.public_key != identity_key:
        raise EnrolmentError("what the server issued is for another fleet, name or key")


def first_agent_toml(token: JoinToken, recordings: Sequence[str]) -> str:
    """An agent.toml with what the token tells; the rest are defaults.

    Args:
        token: Of the device.
        recordings: What it may train on; a roadside unit has none.
    """
    vehicle = token.role == Role.VEHICLE.value
    role, recordings = ("vehicle", recordings) if vehicle else ("roadside", ())
    return (
        "# Written by `convoy agent join`; deploy/agent.toml explains every key.\n"
        'state = "state"\n'
        f"role = {_quoted(role)}\n"
        "\n[vehicle]\n"
        f"vehicle_id = {_quoted(token.name)}\n"
        f"recordings = [{', '.join(map(_quoted, recordings))}]\n"
        "\n[server]\n"
        f"address = {_quoted(token.fleet_address)}\n"
        f"services = {_quoted(token.services_address)}\n"
    )


def _quoted(text: str) -> str:
    """A basic string of TOML: for printable text the same as one of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _is_member(places: JoinPlaces, token: JoinToken, now: datetime) -> bool:
    if not (places.node_key.exists() and places.root_certificates.exists()):
        return False
    try:
        party = load_party(places.identity, now)
    except FleetFolderError:
        return False  # nothing there, or a certificate that has ended: join anew
    if party.identity.name != token.name or party.trust.ca_public_key != token.ca_public_key:
        raise VehicleConfigError(
            f"{places.identity}: this device is {party.identity.name} of "
            f"{'this' if party.trust.ca_public_key == token.ca_public_key else 'another'} fleet; "
            f"to join as {token.name}, move that folder away first"
        )
    return True


def _own_keys(work: Path, token: JoinToken) -> tuple[Ed25519PrivateKey, ec.EllipticCurvePrivateKey]:
    """The keys for this token, made when they are not there: never those of another token."""
    if not work.exists() or _token_of(work) != token.token_id.hex():
        if work.exists():
            shutil.rmtree(work)
        key_files.make_new_folder(work)
        key_files.write_file(work / _TOKEN_ID, token.token_id.hex().encode())
    if not (work / IDENTITY_KEY).exists():
        key_files.write_signing_key(work / IDENTITY_KEY, Ed25519PrivateKey.generate())
    if not (work / _NODE_KEY).exists():
        key = ec.generate_private_key(ec.SECP384R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        key_files.write_file(work / _NODE_KEY, pem, private=True)
    if token.role != Role.VEHICLE.value and not (work / SEALING_KEY).exists():
        key_files.write_sealing_key(
            work / SEALING_KEY, generate_sealing_key(X25519_SUITE, os.urandom)
        )
    node_key = load_ssh_private_key(key_files.read_file(work / _NODE_KEY, private=True), None)
    assert isinstance(node_key, ec.EllipticCurvePrivateKey)  # noqa: S101 - written above
    return key_files.read_signing_key(work / IDENTITY_KEY), node_key


def _token_of(work: Path) -> str:
    path = work / _TOKEN_ID
    return key_files.read_file(path).decode("ascii", "replace") if path.exists() else ""


def _issued(
    ask: Callable[[JoinRequest], EnrolmentReply],
    request: JoinRequest,
    on_pending: Callable[[], None],
    sleep: Callable[[float], None],
    *,
    wait: bool,
) -> Issued | None:
    """Ask until somebody has signed; None: nobody has, and we do not wait."""
    pause_s, pending = _FIRST_PAUSE_S, False
    while True:
        try:
            reply = ask(request)
        except ServerUnreachableError:
            if not pending:
                raise
        else:
            if reply.WhichOneof("outcome") == "issued":
                return reply.issued
            if not pending:
                on_pending()
            pending = True
            if not wait:
                return None
        sleep(pause_s)
        pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)


def _finish(
    issued: Issued, token: JoinToken, places: JoinPlaces, work: Path, now: datetime
) -> None:
    """Put everything in place; the party's folder comes last and whole."""
    for folder in (places.node_key.parent, places.root_certificates.parent):
        folder.mkdir(parents=True, exist_ok=True)
    # A copy, not a move: cut off here, the next attempt needs the key again.
    key_files.write_file(
        places.node_key, key_files.read_file(work / _NODE_KEY, private=True), private=True
    )
    key_files.write_certificate(places.root_certificates, token.tls_ca)
    key_files.write_certificate(work / CA_CERTIFICATE, issued.ca_certificate)
    key_files.write_file(work / REVOCATIONS, issued.revocations)
    key_files.write_certificate(work / IDENTITY_CERTIFICATE, issued.certificate)
    if places.identity.exists():
        places.identity.rename(
            places.identity.with_name(f"{places.identity.name}.before-{now:%Y%m%dT%H%M%S}")
        )
    work.rename(places.identity)
    handle = os.open(places.identity.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    for name in (_NODE_KEY, _TOKEN_ID):
        (places.identity / name).unlink()
