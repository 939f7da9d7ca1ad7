"""Who may join the fleet with which token, and who may get a certificate after the one held.

    token made -> request bound to it -> certificate -> node known to Flower -> node gone, if revoked

Rules only: values in, values out. enrolment_store keeps them on disk, enrolment_signing has the CA sign,
enrolment speaks gRPC.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from convoy_privacy.certificates import Certified, Role, Trust, certified, check_name
from convoy_privacy.errors import BadSignatureError, UntrustedPeerError
from convoy_protos.enrolment_token import (
    PUBLIC_KEY_BYTES,
    SECRET_BYTES,
    TOKEN_ID_BYTES,
    join_bytes,
    renewal_bytes,
)
from convoy_protos.errors import UsageError
from convoy_protos.v1.enrolment_pb2 import JoinRequest, RenewRequest
from convoy_server.errors import EnrolmentRefusedError, Refusal

ENROLLED_ROLES: Final = (Role.VEHICLE, Role.HELPER)
"""Who joins over the network; the aggregator's folder is made where the CA is."""

MAX_VALID_HOURS: Final = 24 * 30

_MAX_NODE_KEY_BYTES: Final = 512
_SIGNATURE_BYTES: Final = 64


class Node(Enum):
    """What Flower's SuperLink was told of a device's node key."""

    UNKNOWN = "unknown"
    REGISTERED = "registered"
    UNREGISTERED = "unregistered"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKeys:
    """Public keys that a device made for itself.

    Attributes:
        identity_key: Raw Ed25519, 32 bytes.
        node_key: EC P-384 in OpenSSH's format, without a comment.
    """

    identity_key: bytes
    node_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """One token, and what came of it.

    Attributes:
        token_id: 8 bytes.
        name: Of the device.
        role: Of the device.
        secret_sha256: Of the token's secret, which is 128 random bits: no slower hash is needed.
        expires: Until when a first request is taken.
        keys: Of the device that used the token; None: nobody has.
        certificate: DER; empty: not signed yet.
        refusal: Why the CA did not sign; empty: it did, or was not asked.
        node: What Flower was told last.
    """

    token_id: bytes
    name: str
    role: Role
    secret_sha256: bytes
    expires: datetime
    keys: DeviceKeys | None = None
    certificate: bytes = b""
    refusal: str = ""
    node: Node = Node.UNKNOWN

    @property
    def waits(self) -> bool:
        """Whether the CA is to sign."""
        return self.keys is not None and not self.certificate


def new_enrolment(
    name: str, role: Role, now: datetime, valid_hours: int, random: Callable[[int], bytes]
) -> tuple[Enrolment, bytes]:
    """An unused token and its secret, which is kept nowhere but in the line that is printed.

    Args:
        name: As certificates.check_name wants it.
        role: One of ENROLLED_ROLES.
        now: With a time zone.
        valid_hours: How long a first request is taken; in 1..720.
        random: Gives so many unpredictable bytes.

    Raises:
        UsageError: One of these is out of range.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if role not in ENROLLED_ROLES:
        raise UsageError(f"a {role.value} does not join with a token: use `convoy fleet add`")
    if not 1 <= valid_hours <= MAX_VALID_HOURS:
        raise UsageError(f"a token is valid for 1 to {MAX_VALID_HOURS} hours, got {valid_hours}")
    secret = random(SECRET_BYTES)
    return Enrolment(
        token_id=random(TOKEN_ID_BYTES),
        name=name,
        role=role,
        secret_sha256=hashlib.sha256(secret).digest(),
        expires=now + timedelta(hours=valid_hours),
    ), secret


def check_free(name: str, enrolments: Sequence[Enrolment], trust: Trust, now: datetime) -> None:
    """Refuse a token for a name that a device has, or is about to have.

    Tokens of that name that nobody has used do not count: a new one replaces them.

    Args:
        name: Wanted.
        enrolments: All there are.
        trust: The fleet's CA and its newest list of revocations.
        now: With a time zone.

    Raises:
        UsageError: Says what to do first.
    """
    for one in enrolments:
        if one.name != name or one.keys is None:
            continue
        if not one.certificate:
            raise UsageError(
                f"{name} has used a token and waits for the CA: `convoy fleet sign` lets it in"
            )
        try:
            trust.verify(one.certificate, one.role, now)
        except UntrustedPeerError:
            continue  # expired or revoked: the name is free
        raise UsageError(f"{name} is in the fleet already: `convoy fleet revoke` it first")


def bind(enrolment: Enrolment | None, request: JoinRequest, now: datetime) -> Enrolment:
    """The enrolment once this request is bound to its token.

    A token binds to the first keys that come with its secret; the same keys again change nothing, so
    that an answer that was lost can be asked for again, also after the token's end.

    Args:
        enrolment: Of the request's token id; None: there is none.
        request: Hostile.
        now: With a time zone.

    Raises:
        EnrolmentRefusedError: No such token, expired, used by another key, or not signed by its own.
    """
    given = hashlib.sha256(request.secret).digest()
    # One answer for both, so that nobody learns which ids exist.
    if enrolment is None or not hmac.compare_digest(given, enrolment.secret_sha256):
        raise EnrolmentRefusedError(
            Refusal.UNKNOWN_TOKEN,
            "the server knows no such token: make another with `convoy fleet enroll`",
        )
    if request.name != enrolment.name:
        raise EnrolmentRefusedError(
            Refusal.MALFORMED, f"this token is for {enrolment.name}, not for {request.name!r}"
        )
    keys = _device_keys(request)
    if enrolment.keys is not None:
        if enrolment.keys != keys:
            raise EnrolmentRefusedError(
                Refusal.USED,
                f"the token of {enrolment.name} was used by another device, or by this one before it "
                "lost its keys: make another with `convoy fleet enroll`",
            )
        return enrolment
    if now >= enrolment.expires:
        raise EnrolmentRefusedError(
            Refusal.EXPIRED,
            f"the token of {enrolment.name} ended at {enrolment.expires:%Y-%m-%d %H:%M} UTC: make "
            "another with `convoy fleet enroll`",
        )
    return replace(enrolment, keys=keys)


def check_renewal(request: RenewRequest, trust: Trust, now: datetime) -> Certified:
    """Whom a certificate after the one held is for.

    Args:
        request: Hostile.
        trust: The fleet's CA and its newest list of revocations.
        now: With a time zone.

    Raises:
        EnrolmentRefusedError: Not in force, of another role, signed by another key, or too early.
    """
    try:
        found = certified(trust.ca_public_key, request.certificate)
        if found.member.role not in ENROLLED_ROLES:
            raise EnrolmentRefusedError(
                Refusal.UNTRUSTED,
                f"{found.member.role.value}s get certificates from `convoy fleet add`",
            )
        member = trust.verify(request.certificate, found.member.role, now)
        member.check_signature(request.signature, renewal_bytes(request.certificate))
    except (UntrustedPeerError, BadSignatureError) as error:
        raise EnrolmentRefusedError(
            Refusal.UNTRUSTED, f"{error}; to come back, join with a new token"
        ) from error
    if found.not_after - now > (found.not_after - found.not_before) / 2:
        # Else a single vehicle could fill the CA's book.
        raise EnrolmentRefusedError(
            Refusal.EARLY, f"the certificate of {member.name} has more than half of its life left"
        )
    return found


def node_after(enrolment: Enrolment, revoked_keys: Set[bytes]) -> Node:
    """What Flower is to be told of a device.

    Args:
        enrolment: The device's.
        revoked_keys: Identity keys, raw Ed25519, that have a revoked certificate.
    """
    if enrolment.keys is None or not enrolment.certificate:
        return Node.UNKNOWN
    if enrolment.keys.identity_key in revoked_keys:
        return Node.UNKNOWN if enrolment.node is Node.UNKNOWN else Node.UNREGISTERED
    return Node.REGISTERED


def _device_keys(request: JoinRequest) -> DeviceKeys:
    """The keys, if the device has the private half of its identity.

    Raises:
        EnrolmentRefusedError: They are no keys, or the signature is another's.
    """
    sizes = len(request.identity_key), len(request.signature)
    if sizes != (PUBLIC_KEY_BYTES, _SIGNATURE_BYTES) or len(request.node_key) > _MAX_NODE_KEY_BYTES:
        raise EnrolmentRefusedError(Refusal.MALFORMED, "a key or a signature has a wrong length")
    try:
        Ed25519PublicKey.from_public_bytes(request.identity_key).verify(
            request.signature, join_bytes(request)
        )
        node_key = load_ssh_public_key(request.node_key)
    except InvalidSignature:
        raise EnrolmentRefusedError(
            Refusal.MALFORMED, "the request is not signed by its own identity key"
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EnrolmentRefusedError(Refusal.MALFORMED, "the node key is no key") from error
    if not isinstance(node_key, EllipticCurvePublicKey) or not isinstance(
        node_key.curve, SECP384R1
    ):
        raise EnrolmentRefusedError(Refusal.MALFORMED, "the node key is not of EC P-384")
    return DeviceKeys(
        identity_key=request.identity_key,
        node_key=node_key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
    )
