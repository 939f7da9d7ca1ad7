"""Seal a message so that one party alone opens it.

Source: HPKE in base mode, RFC 9180, with HKDF-SHA256 and AES-256-GCM.

    suite             keys agreed by                                 public key   longer by
    x25519            X25519                                         32 bytes     48 bytes
    mlkem768-x25519   both ML-KEM-768 and X25519, combined as        1216 bytes   1136 bytes
                      X-Wing does (draft-connolly-cfrg-xwing-kem);
                      holds while either holds

A sealed message is the encapsulated key, then the ciphertext with its tag. A private key of either suite
is a seed of 32 bytes. The library has no argument for associated data and recommends `info` for it, as
RFC 9180 section 8.1 does: the info used is "convoy sealed/1" ‖ SHA-256(info) ‖ SHA-256(aad). The
ephemeral keys come from the library's own random generator: sealing twice gives different bytes.

HPKE says nothing about who sealed: a sender signs what it sealed. Who reads, a peer learns from a sealing
key signed by a certificate's identity, the message HelperKey.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from convoy_privacy.certificates import Identity, Member, Role, Trust
from convoy_privacy.errors import SealedMessageError, SuiteError
from convoy_protos.v1.secure_sum_pb2 import HelperKey

X25519_SUITE: Final = "x25519"
HYBRID_SUITE: Final = "mlkem768-x25519"
SUITES: Final = (X25519_SUITE, HYBRID_SUITE)

SEED_BYTES: Final = 32

SignedSealingKey = HelperKey
"""A sealing key that an aggregator or a helper has signed with its identity."""

_X25519_BYTES: Final = 32
_MLKEM_PUBLIC_BYTES: Final = 1184
_MLKEM_CIPHERTEXT_BYTES: Final = 1088
_TAG_BYTES: Final = 16

_NOT_INSTALLED: Final = (
    f"the suite {HYBRID_SUITE} needs ML-KEM-768, which this build of `cryptography` lacks: "
    f"install its wheel, version 47 or newer, or choose {X25519_SUITE}"
)

_PrivateKey = X25519PrivateKey | hpke.MLKEM768X25519PrivateKey
_PublicKey = X25519PublicKey | hpke.MLKEM768X25519PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingKey:
    """A key pair to seal to; made by `sealing_key`.

    Attributes:
        suite: One of SUITES.
        seed: The private key, 32 bytes.
        public_key: As peers get it.
    """

    suite: str
    seed: bytes = field(repr=False)
    public_key: bytes = field(repr=False)
    _private_key: _PrivateKey = field(repr=False, compare=False)


def generate_sealing_key(suite: str, random: Callable[[int], bytes]) -> SealingKey:
    """A new key pair; `random` gives so many unpredictable bytes. Raises SuiteError."""
    return sealing_key(suite, random(SEED_BYTES))


def sealing_key(suite: str, seed: bytes) -> SealingKey:
    """The key pair of a seed.

    Raises:
        SuiteError: The suite is unknown or not installed.
        ValueError: The seed has not 32 bytes.
    """
    check_suite(suite)
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes, got {len(seed)}")
    if suite == X25519_SUITE:
        private_key = X25519PrivateKey.from_private_bytes(seed)
        public_key = private_key.public_key().public_bytes_raw()
        return SealingKey(suite=suite, seed=seed, public_key=public_key, _private_key=private_key)
    expanded = hashlib.shake_256(seed).digest(96)
    mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
    return SealingKey(
        suite=suite,
        seed=seed,
        public_key=mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw(),
        _private_key=hpke.MLKEM768X25519PrivateKey(mlkem, x25519),
    )


def seal(suite: str, public_key: bytes, message: bytes, *, info: bytes, aad: bytes = b"") -> bytes:
    """What only the owner of the key opens, and only with the same info and aad.

    Args:
        suite: One of SUITES.
        public_key: Hostile.
        message: Of any length.
        info: Starts with a label of its own and holds the context.
        aad: What else must be the same at both ends.

    Raises:
        SuiteError: The suite is unknown or not installed.
        SealedMessageError: The public key is none of this suite.
    """
    receiver = _public_key(suite, public_key)
    try:
        return _hpke(suite).encrypt(message, receiver, _bound(info, aad))
    except ValueError as error:  # an X25519 point of low order: everybody would know the secret
        raise SealedMessageError(f"a {suite} key that seals nothing: {error}") from error


def open_sealed(key: SealingKey, sealed: bytes, *, info: bytes, aad: bytes = b"") -> bytes:
    """The message that was sealed to this key with this info and aad.

    Raises:
        SealedMessageError: Sealed to another key or in another context, altered, or nothing sealed.
    """
    try:
        return _hpke(key.suite).decrypt(sealed, key._private_key, _bound(info, aad))
    except (InvalidTag, ValueError) as error:
        raise SealedMessageError(
            f"{len(sealed)} bytes do not open with this {key.suite} key in this context"
        ) from error


def sealed_bytes(suite: str, message_bytes: int) -> int:
    """Exact length of a sealed message. Raises SuiteError for an unknown suite."""
    _check_known(suite)
    encapsulated = _X25519_BYTES + (_MLKEM_CIPHERTEXT_BYTES if suite == HYBRID_SUITE else 0)
    return encapsulated + message_bytes + _TAG_BYTES


def check_suite(suite: str) -> None:
    """Refuse a suite that cannot be used here.

    Raises:
        SuiteError: Unknown, or not installed.
    """
    _check_known(suite)
    if suite == HYBRID_SUITE:
        try:
            MLKEM768PrivateKey.from_seed_bytes(bytes(64))
        except UnsupportedAlgorithm as error:
            raise SuiteError(_NOT_INSTALLED) from error


def sign_sealing_key(key: SealingKey, identity: Identity) -> SignedSealingKey:
    """Say under one's name that messages may be sealed to this key; the same bytes each time."""
    return SignedSealingKey(
        certificate=identity.certificate,
        suite=key.suite,
        sealing_key=key.public_key,
        signature=identity.sign(signed_sealing_message(key.suite, key.public_key)),
    )


def verify_sealing_key(signed: SignedSealingKey, trust: Trust, role: Role, now: datetime) -> Member:
    """Whose key it is.

    Args:
        signed: Hostile.
        trust: Whose members may be named.
        role: What the owner must be.
        now: With a time zone.

    Raises:
        UntrustedPeerError: The certificate is not in force, or is of another role.
        BadSignatureError: The owner of the certificate did not sign this key.
        SuiteError: The suite is unknown or not installed here.
        SealedMessageError: The key is none of its suite.
    """
    member = trust.verify(signed.certificate, role, now)
    member.check_signature(
        signed.signature, signed_sealing_message(signed.suite, signed.sealing_key)
    )
    _public_key(signed.suite, signed.sealing_key)
    return member


def signed_sealing_message(suite: str, public_key: bytes) -> bytes:
    """The bytes that the owner signs. No name of a suite begins another: they cannot be cut twice."""
    return b"convoy sealing key/1" + suite.encode() + public_key


def _check_known(suite: str) -> None:
    if suite not in SUITES:
        raise SuiteError(f"the suite {suite[:40]!r} is unknown; there are {', '.join(SUITES)}")


def _public_key(suite: str, public_key: bytes) -> _PublicKey:
    _check_known(suite)
    try:
        if suite == X25519_SUITE:
            return X25519PublicKey.from_public_bytes(public_key)
        mlkem, x25519 = public_key[:_MLKEM_PUBLIC_BYTES], public_key[_MLKEM_PUBLIC_BYTES:]
        return hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(mlkem), X25519PublicKey.from_public_bytes(x25519)
        )
    except UnsupportedAlgorithm as error:
        raise SuiteError(_NOT_INSTALLED) from error
    except ValueError as error:
        raise SealedMessageError(f"{len(public_key)} bytes are no {suite} key: {error}") from error


def _hpke(suite: str) -> hpke.Suite:
    kem = hpke.KEM.X25519 if suite == X25519_SUITE else hpke.KEM.MLKEM768_X25519
    return hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def _bound(info: bytes, aad: bytes) -> bytes:
    return b"convoy sealed/1" + hashlib.sha256(info).digest() + hashlib.sha256(aad).digest()
