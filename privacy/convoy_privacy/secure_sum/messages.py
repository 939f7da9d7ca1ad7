"""Strict parsing, labelled digests and signatures of a secure sum's messages.

Whatever is hashed or signed starts with an ASCII label of its own, so that no bytes mean two things.
Parts of varying length are preceded by their length.
"""

import hashlib
from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from convoy_privacy.errors import WrongContextError
from convoy_protos.errors import MalformedMessageError

DIGEST_BYTES = 32
KEY_BYTES = 32
SIGNATURE_BYTES = 64

MAX_MESSAGE_BYTES = 1 << 22
"""A roster of 128 with certificates and a large revocation list has less than half of it."""

MAX_HELPER_REQUEST_BYTES = 1 << 26
"""4096 vehicles that sealed a seed to each of 8 helpers, in the suite with the longest."""

MAX_HELPER_REPLY_BYTES = 1 << 30
"""Lanes of two bytes for 500 million parameters."""

AnyMessage = TypeVar("AnyMessage", bound=Message)


def parse(kind: type[AnyMessage], encoded: bytes, limit: int = MAX_MESSAGE_BYTES) -> AnyMessage:
    """A message from bytes of an untrusted peer.

    Only the one encoding is taken that our own peers write: no unknown field, no field twice.

    Raises:
        MalformedMessageError: The bytes are too many, do not parse or are another encoding.
    """
    name = kind.DESCRIPTOR.name
    if len(encoded) > limit:
        raise MalformedMessageError(f"{name} of {len(encoded)} bytes, at most {limit}")
    try:
        message = kind.FromString(encoded)
    except DecodeError as error:
        raise MalformedMessageError(f"{name} does not parse") from error
    canonical = kind()
    canonical.CopyFrom(message)
    canonical.DiscardUnknownFields()
    if encode(canonical) != encoded:
        raise MalformedMessageError(f"{name} is not encoded as this protocol does")
    return message


def encode(message: Message) -> bytes:
    """The bytes of a message of our own."""
    return message.SerializeToString(deterministic=True)


def check_length(what: str, part: bytes, length: int) -> None:
    """Refuse a field of another length.

    Raises:
        MalformedMessageError: It has another length.
    """
    if len(part) != length:
        raise MalformedMessageError(f"{what} has {length} bytes, got {len(part)}")


def check_context(got: bytes, context: bytes) -> None:
    """Refuse a message of another sum.

    Raises:
        WrongContextError: The digests differ.
    """
    if got != context:
        raise WrongContextError("the message belongs to another sum")


def digest(label: str, *parts: bytes) -> bytes:
    """SHA-256 over label and parts; all parts but the last have a fixed length."""
    return hashlib.sha256(b"".join((label.encode("ascii"), *parts))).digest()


def listed(parts: Iterable[bytes]) -> bytes:
    """Parts of any length, one after the other, each with its length."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


# What each message's signature is over.


def check_in_signed(terms_digest: bytes, mask_key: bytes, share_key: bytes) -> bytes:
    """A vehicle's two fresh public keys, for one sum."""
    return b"convoy check in/1" + terms_digest + mask_key + share_key


def shares_signed(context: bytes, commitment: bytes, sealed: Iterable[bytes]) -> bytes:
    """A vehicle's sealed shares."""
    return b"convoy shares/1" + context + commitment + listed(sealed)


def upload_signed(context: bytes, body: bytes | memoryview) -> bytes:
    """A vehicle's upload, whatever stands in it."""
    return b"convoy upload/1" + context + hashlib.sha256(body).digest()


def unmask_signed(
    context: bytes, request_digest: bytes, shares: Iterable[tuple[int, bytes]]
) -> bytes:
    """A vehicle's answer; the request says which kind each share is of."""
    parts = (slot.to_bytes(4, "big") + share for slot, share in shares)
    return b"convoy unmask/1" + context + request_digest + listed(parts)


def helper_seeds_signed(context: bytes, sealed: Iterable[bytes]) -> bytes:
    """A vehicle's seeds, one sealed to each helper."""
    return b"convoy helper seeds/1" + context + listed(sealed)


def helper_reply_signed(context: bytes, request_digest: bytes, mask_sum: bytes) -> bytes:
    """A helper's only answer."""
    return b"convoy helper reply/1" + context + request_digest + hashlib.sha256(mask_sum).digest()
