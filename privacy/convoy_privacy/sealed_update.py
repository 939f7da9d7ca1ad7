"""One update on its way to the aggregator alone: sealed with HPKE to its key, signed by the vehicle.

    sealed = HPKE(key, payload; info = "convoy sealed update/1" | context digest, aad = header)
    signature over "convoy sealed upload/1" | context digest | SHA-256(header) | SHA-256(sealed)

The context digest is that of the round's instructions as they travelled, so that an update sealed
for one round, model or setting opens in no other. The header is UpdateHeader without its signature
and payload_bytes: who sent it and how much it weighs cannot be changed on the way.
"""

import hashlib
from datetime import datetime

from convoy_privacy.certificates import Identity, Role, Trust
from convoy_privacy.errors import UnknownPeerError, WrongContextError
from convoy_privacy.sealing import SealingKey, open_sealed, seal
from convoy_protos.v1.federation_pb2 import UpdateHeader
from convoy_protos.v1.secure_sum_pb2 import HelperKey


def seal_update(
    payload: bytes, header: UpdateHeader, aggregator: HelperKey, identity: Identity
) -> tuple[bytes, bytes]:
    """The sealed payload and the signature for the header.

    Args:
        payload: What the codec wrote.
        header: Complete but for signature and payload_bytes.
        aggregator: Whose key was verified by the caller.
        identity: Who seals.

    Raises:
        ProtocolError: The key is none.
    """
    bound = _bound(header)
    sealed = seal(aggregator.suite, aggregator.sealing_key, payload, info=_info(header), aad=bound)
    return sealed, identity.sign(_signed(header, bound, sealed))


def open_update(
    sealed: memoryview,
    header: UpdateHeader,
    *,
    context_digest: bytes,
    key: SealingKey,
    trust: Trust,
    now: datetime,
) -> bytes:
    """The payload of a sealed update from an untrusted sender.

    Raises:
        WrongContextError: It was sealed under other instructions.
        UnknownPeerError: The certificate is another vehicle's.
        ProtocolError: Not trusted, a bad signature, or it does not open.
    """
    if header.context_digest != context_digest:
        raise WrongContextError("the update was sealed under other instructions")
    member = trust.verify(header.certificate, Role.VEHICLE, now)
    if member.name != header.vehicle_id:
        raise UnknownPeerError(f"{header.vehicle_id} sent the certificate of {member.name}")
    bound = _bound(header)
    member.check_signature(header.signature, _signed(header, bound, bytes(sealed)))
    return open_sealed(key, bytes(sealed), info=_info(header), aad=bound)


def _info(header: UpdateHeader) -> bytes:
    return b"convoy sealed update/1" + header.context_digest


def _bound(header: UpdateHeader) -> bytes:
    """The header's bytes as both sides compute them."""
    bound = UpdateHeader()
    bound.CopyFrom(header)
    bound.ClearField("signature")
    bound.ClearField("payload_bytes")
    return bound.SerializeToString(deterministic=True)


def _signed(header: UpdateHeader, bound: bytes, sealed: bytes) -> bytes:
    return b"".join(
        (
            b"convoy sealed upload/1",
            header.context_digest,
            hashlib.sha256(bound).digest(),
            hashlib.sha256(sealed).digest(),
        )
    )
