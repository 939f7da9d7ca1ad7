"""The one line that lets a device join a fleet, and what it signs on the way.

    token = "convoy-join-1." + base64url(body + SHA-256(body)[:4]), no padding
    body  = JoinToken of v1/enrolment.proto

The four bytes catch a line that was cut or mistyped before anything is done with it; what protects the
token from being made up is its secret.
"""

import base64
import binascii
import hashlib
from typing import Final

from google.protobuf.message import DecodeError

from convoy_protos.errors import TokenError
from convoy_protos.v1.enrolment_pb2 import JoinRequest, JoinToken

PREFIX: Final = "convoy-join-1."
TOKEN_ID_BYTES: Final = 8
SECRET_BYTES: Final = 16
PUBLIC_KEY_BYTES: Final = 32

_MAX_CHARACTERS: Final = 4096
_CHECK_BYTES: Final = 4
_JOIN_LABEL: Final = b"convoy join/1"
_RENEWAL_LABEL: Final = b"convoy renewal/1"
_PASS_LABEL: Final = b"convoy pass/1"


def write_token(token: JoinToken) -> str:
    """The token as one printable line."""
    body = token.SerializeToString(deterministic=True)
    return PREFIX + base64.urlsafe_b64encode(body + _check(body)).decode().rstrip("=")


def read_token(line: str) -> JoinToken:
    """The inverse of `write_token`; spaces and line breaks that came with copying are ignored.

    Raises:
        TokenError: Not a token, or not a whole one. The message never quotes it.
    """
    text = "".join(line.split())
    if not text.startswith(PREFIX) or len(text) > _MAX_CHARACTERS:
        raise TokenError(f"a token starts with {PREFIX!r}: copy the line of `convoy fleet enroll`")
    encoded = text.removeprefix(PREFIX)
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if not body or check != _check(body):
        raise TokenError("the token is cut or mistyped: copy the whole line again")
    try:
        token = JoinToken.FromString(body)
    except DecodeError:
        token = JoinToken()
    sizes = (len(token.token_id), len(token.secret), len(token.ca_public_key))
    named = token.fleet_address and token.services_address and token.tls_ca and token.name
    if sizes != (TOKEN_ID_BYTES, SECRET_BYTES, PUBLIC_KEY_BYTES) or not named or not token.role:
        raise TokenError("the token is of another version of Convoy: install the server's here")
    return token


def join_bytes(request: JoinRequest) -> bytes:
    """What the identity key signs to join: it binds name, node key and token to that key."""
    fields = (request.token_id, request.name.encode(), request.identity_key, request.node_key)
    return _JOIN_LABEL + b"".join(hashlib.sha256(field).digest() for field in fields)


def renewal_bytes(certificate: bytes) -> bytes:
    """What the identity key signs to get a certificate after this one."""
    return _RENEWAL_LABEL + hashlib.sha256(certificate).digest()


def pass_bytes(certificate: bytes, tls_public_key: bytes) -> bytes:
    """What the identity key signs to get a pass for this TLS key."""
    fields = (certificate, tls_public_key)
    return _PASS_LABEL + b"".join(hashlib.sha256(field).digest() for field in fields)


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECK_BYTES]
