"""Golden vectors of a sealed update, and broken ones named for what is broken.

They stand in tests/vectors/sealed_update.toml. The library seals with an ephemeral key of its own random
generator, so here HPKE is written out, slowly and from its building blocks, with an ephemeral key that is
given: the vector can be made again, and the library must open what this makes. A changed vector is a new
version of the format: `python tests/privacy/test_sealed_update_vectors.py > FILE` writes it.
"""

import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from small_sum import NOW, new_authority

from convoy_privacy.certificates import Role
from convoy_privacy.errors import BadSignatureError, SealedMessageError, WrongContextError
from convoy_privacy.sealed_update import open_update
from convoy_privacy.sealing import X25519_SUITE, sealing_key
from convoy_protos import envelope
from convoy_protos.errors import MalformedMessageError
from convoy_protos.v1.federation_pb2 import UpdateHeader

PATH = Path(__file__).parents[1] / "vectors" / "sealed_update.toml"
CONTEXT = bytes(range(32))
NUMBERS = b"what the sealed codec wrote"
KEY = sealing_key(X25519_SUITE, bytes([1]) * 32)
EPHEMERAL = bytes([2]) * 32
# Of its own: names and serial numbers depend on who was issued before.
AUTHORITY = new_authority("sealed update vectors")
SENDER, OTHER = (AUTHORITY.issue(name, Role.VEHICLE, NOW) for name in ("car 1", "car 2"))
COMMENT = """\
# A sealed update in its envelope: sealed to the aggregator, signed by the vehicle. Bytes as hex.
#
# Made by tests/privacy/test_sealed_update_vectors.py, which says from what: `python` with its path prints this
# file. HPKE (RFC 9180, base mode, X25519, HKDF-SHA256, AES-256-GCM) with the ephemeral private key given here;
# the aggregator's private key is `seed`, the context digest the bytes 0 to 31. `bound` is the header as it is
# sealed and signed: without signature and payload_bytes. Everything under bad must be refused; the name says
# what is wrong.
"""


def test_the_envelope_is_made_again_to_the_last_byte():
    vector = vectors()
    header, sealed = update()
    assert bound(header) == bytes.fromhex(vector["bound"])
    assert sealed == bytes.fromhex(vector["sealed"])
    assert header.signature == bytes.fromhex(vector["signature"])
    assert envelope.pack(header, sealed) == bytes.fromhex(vector["envelope"])


def test_the_library_opens_it():
    assert opened(bytes.fromhex(vectors()["envelope"])) == NUMBERS


REFUSED = {
    "another_weight": BadSignatureError,
    "another_vehicle_s_signature": BadSignatureError,
    "ciphertext_changed_and_signed_again": SealedMessageError,
    "header_changed_and_signed_again": SealedMessageError,
    "other_instructions": WrongContextError,
    "payload_cut_by_one_byte": MalformedMessageError,
}


@pytest.mark.parametrize(("name", "error"), REFUSED.items())
def test_a_broken_one_is_refused(name, error):
    with pytest.raises(error):
        opened(bytes.fromhex(vectors()["bad"][name]))


def test_every_broken_one_is_watched_and_as_it_is_made():
    bad = vectors()["bad"]
    assert set(bad) == set(REFUSED)
    assert {name: bytes.fromhex(text) for name, text in bad.items()} == broken()


def opened(blob):
    header, payload = envelope.unpack(blob)
    trust = AUTHORITY.trust()
    return open_update(payload, header, context_digest=CONTEXT, key=KEY, trust=trust, now=NOW)


def update(**changes):
    """Header and sealed payload."""
    header = UpdateHeader(
        run_id="run",
        round=4,
        vehicle_id=SENDER.name,
        schema_digest=b"s" * 32,
        codec="sealed/1",
        parameter_count=100,
        example_count=50,
        metrics={"train_loss": 0.5},
        context_digest=CONTEXT,
        certificate=SENDER.certificate,
    )
    info = b"convoy sealed/1" + digest(b"convoy sealed update/1" + CONTEXT) + digest(bound(header))
    sealed = hpke_seal(KEY.public_key, NUMBERS, info)
    for name, value in changes.items():
        setattr(header, name, value)
    return sign(header, sealed), sealed


def sign(header, sealed, sender=SENDER):
    digests = header.context_digest + digest(bound(header)) + digest(sealed)
    header.signature = sender.sign(b"convoy sealed upload/1" + digests)
    return header


def bound(header):
    copy = UpdateHeader.FromString(header.SerializeToString())
    copy.ClearField("signature")
    copy.ClearField("payload_bytes")
    return copy.SerializeToString(deterministic=True)


def digest(data):
    hashed = hashes.Hash(hashes.SHA256())
    hashed.update(data)
    return hashed.finalize()


def broken():
    """By name."""
    header, sealed = update()
    blob = envelope.pack(header, sealed)
    lighter, _ = update()
    lighter.example_count = 5
    foreign, _ = update()
    sign(foreign, sealed, OTHER)
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    rewritten, _ = update(example_count=5)
    elsewhere, _ = update(context_digest=bytes(32))
    return {
        "another_weight": envelope.pack(lighter, sealed),
        "another_vehicle_s_signature": envelope.pack(foreign, sealed),
        "ciphertext_changed_and_signed_again": envelope.pack(sign(update()[0], changed), changed),
        "header_changed_and_signed_again": envelope.pack(rewritten, sealed),
        "other_instructions": envelope.pack(elsewhere, sealed),
        "payload_cut_by_one_byte": blob[:-1],
    }


# RFC 9180, sections 4.1, 5.1 and 6.1: DHKEM(X25519, HKDF-SHA256) 0x0020, HKDF-SHA256 1, AES-256-GCM 2.

KEM, HPKE = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"


def hpke_seal(public_key, message, info):
    """Encapsulated key, then the ciphertext."""
    ephemeral = X25519PrivateKey.from_private_bytes(EPHEMERAL)
    encapsulated = ephemeral.public_key().public_bytes_raw()
    agreed = ephemeral.exchange(X25519PublicKey.from_public_bytes(public_key))
    secret = extract(KEM, b"", b"eae_prk", agreed)
    shared = expand(KEM, secret, b"shared_secret", encapsulated + public_key, 32)
    schedule = (
        b"\x00" + extract(HPKE, b"", b"psk_id_hash", b"") + extract(HPKE, b"", b"info_hash", info)
    )
    secret = extract(HPKE, shared, b"secret", b"")
    key = expand(HPKE, secret, b"key", schedule, 32)
    nonce = expand(HPKE, secret, b"base_nonce", schedule, 12)
    return encapsulated + AESGCM(key).encrypt(nonce, message, b"")


def extract(suite, salt, label, secret):
    mac = hmac.HMAC(salt or bytes(32), hashes.SHA256())
    mac.update(b"HPKE-v1" + suite + label + secret)
    return mac.finalize()


def expand(suite, key, label, info, length):
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return HKDFExpand(hashes.SHA256(), length, labelled).derive(key)


# The file.


def vectors():
    return tomllib.loads(PATH.read_text())


def written():
    header, sealed = update()
    fields = {
        "seed": KEY.seed,
        "ephemeral_private_key": EPHEMERAL,
        "numbers": NUMBERS,
        "bound": bound(header),
        "sealed": sealed,
        "signature": header.signature,
        "envelope": envelope.pack(header, sealed),
    }
    lines = [f"{name} = {toml(data)}" for name, data in fields.items()]
    bad = [f"{name} = {toml(data)}" for name, data in broken().items()]
    return "\n".join([COMMENT, *lines, "", "[bad]", *bad]) + "\n"


def toml(data):
    if len(data) <= 48:
        return f'"{data.hex()}"'
    text = "\n".join(f"  {line}\\" for line in textwrap.wrap(data.hex(), 100))
    return f'"""\\\n{text}\n  """'


if __name__ == "__main__":
    sys.stdout.write(written())
