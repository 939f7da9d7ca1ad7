"""Keys of the masks, and of the boxes in which shares travel.

Every key comes from HKDF-SHA256 (RFC 5869) with an info that names its purpose, the sum and the slots.
The vehicle of the lower slot adds a pair's mask, the other one subtracts it.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from convoy_privacy.errors import BadKeyError, BadSharesError
from convoy_privacy.key_stream import KEY_BYTES, StreamAdder
from convoy_privacy.secret_sharing import SHARE_BYTES
from convoy_privacy.secure_sum.messages import digest

# Both shares of one vehicle for one holder, and the tag: self seed first, then mask key.
SEALED_BYTES = 2 * SHARE_BYTES + 16

# A box's key is used for one message, so its nonce can be constant.
_NONCE = bytes(12)


class PairMasks:
    """Masks that one vehicle has in common with each of its peers."""

    def __init__(self, private_key: X25519PrivateKey, slot: int, context: bytes) -> None:
        self._private_key = private_key
        self._slot = slot
        self._context = context

    def add(self, vectors: StreamAdder, peer_slot: int, peer_key: bytes) -> None:
        """Mask the vehicle's vectors against this peer."""
        key = self._key(peer_slot, peer_key)
        if self._slot < peer_slot:
            vectors.add(key)
        else:
            vectors.subtract(key)

    def remove(self, vectors: StreamAdder, peer_slot: int, peer_key: bytes) -> None:
        """The other sign: what the peer added against this vehicle."""
        key = self._key(peer_slot, peer_key)
        if self._slot < peer_slot:
            vectors.subtract(key)
        else:
            vectors.add(key)

    def _key(self, peer_slot: int, peer_key: bytes) -> bytes:
        low, high = sorted((self._slot, peer_slot))
        shared = agree(self._private_key, peer_key)
        return derive(shared, "convoy pair mask/1", self._context, low, high)


def self_mask_key(self_seed: bytes, context: bytes, slot: int) -> bytes:
    """Key of the mask that nobody else has until its shares come together."""
    return derive(self_seed, "convoy self mask/1", context, slot)


def self_seed_commitment(self_seed: bytes, context: bytes, slot: int) -> bytes:
    """By which a rebuilt seed is recognized; 32 random bytes do not follow from it."""
    return digest("convoy self seed/1", context, slot.to_bytes(4, "big"), self_seed)


def helper_mask_key(seed: bytes, context: bytes, slot: int) -> bytes:
    """Key of the mask that a helper takes away again; its seed is sealed to that helper."""
    return derive(seed, "convoy helper mask/1", context, slot)


class ShareBoxes:
    """Sealed boxes between one vehicle and its peers; a key for each direction."""

    def __init__(self, private_key: X25519PrivateKey, slot: int, context: bytes) -> None:
        self._private_key = private_key
        self._slot = slot
        self._context = context

    def seal(self, peer_slot: int, peer_key: bytes, shares: bytes) -> bytes:
        """Both shares for this peer."""
        shared = agree(self._private_key, peer_key)
        return self._cipher(shared, self._slot, peer_slot).encrypt(_NONCE, shares, self._context)

    def open(self, peer_slot: int, peer_key: bytes, sealed: bytes) -> bytes:
        """Both shares from this peer.

        Raises:
            BadSharesError: The box was not sealed by this peer for us in this sum.
        """
        shared = agree(self._private_key, peer_key)
        try:
            return self._cipher(shared, peer_slot, self._slot).decrypt(
                _NONCE, sealed, self._context
            )
        except InvalidTag as error:
            raise BadSharesError(f"the box of slot {peer_slot} does not open") from error

    def _cipher(self, shared: bytes, sender: int, receiver: int) -> AESGCM:
        return AESGCM(derive(shared, "convoy share box/1", self._context, sender, receiver))


def agree(private_key: X25519PrivateKey, public_key: bytes) -> bytes:
    """X25519 (RFC 7748).

    Raises:
        BadKeyError: The point has a small order, or is none.
    """
    try:
        return private_key.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError as error:
        raise BadKeyError("a public key is a point of small order") from error


def derive(secret: bytes, label: str, context: bytes, *numbers: int) -> bytes:
    """A 32-byte key for one purpose in one sum."""
    info = b"".join(
        (label.encode("ascii"), context, *(number.to_bytes(4, "big") for number in numbers))
    )
    return HKDF(hashes.SHA256(), KEY_BYTES, None, info).derive(secret)
