"""Messages that one party alone opens, and whose key that is."""

import hashlib
import itertools
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from hypothesis import given
from hypothesis import strategies as st

from convoy_privacy import sealing
from convoy_privacy.certificates import Role
from convoy_privacy.errors import (
    BadSignatureError,
    SealedMessageError,
    SuiteError,
    UntrustedPeerError,
)
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.sealing import (
    HYBRID_SUITE,
    SUITES,
    X25519_SUITE,
    SignedSealingKey,
    check_suite,
    generate_sealing_key,
    open_sealed,
    seal,
    sealed_bytes,
    sealing_key,
    sign_sealing_key,
    verify_sealing_key,
)
from convoy_protos.errors import ProtocolError, UsageError

VECTORS = Path(__file__).parents[1] / "vectors" / "sealing.toml"
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def drawn(label):
    """Bytes that look random and are the same each time: how the golden vectors were made."""
    counter = itertools.count()
    return lambda size: hashlib.shake_256(f"{label} {next(counter)}".encode()).digest(size)


AUTHORITY = FleetAuthority.create(NOW, drawn("fleet"))
TRUST = AUTHORITY.trust()
HELPER = AUTHORITY.issue("kerb-1", Role.HELPER, NOW)
KEYS = {suite: generate_sealing_key(suite, drawn(suite)) for suite in SUITES}
INFO = b"convoy test/1"

both_suites = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)


def sealed_to(key, message=b"a seed", info=INFO, aad=b"slot 3"):
    return seal(key.suite, key.public_key, message, info=info, aad=aad)


# --- sealing ---


@both_suites
@given(message=st.binary(max_size=200), info=st.binary(max_size=40), aad=st.binary(max_size=40))
def test_what_is_sealed_is_opened(key, message, info, aad):
    sealed = sealed_to(key, message, info, aad)
    assert open_sealed(key, sealed, info=info, aad=aad) == message
    assert len(sealed) == sealed_bytes(key.suite, len(message))


@pytest.mark.parametrize(
    ("suite", "key_bytes", "more"), [(X25519_SUITE, 32, 48), (HYBRID_SUITE, 1216, 1136)]
)
def test_the_cost_in_bytes_is_as_documented(suite, key_bytes, more):
    assert len(KEYS[suite].public_key) == key_bytes
    assert sealed_bytes(suite, 32) == 32 + more


@both_suites
def test_a_message_opens_in_its_own_context_only(key):
    sealed = sealed_to(key, info=b"round 1", aad=b"slot 3")
    for info, aad in [
        (b"round 2", b"slot 3"),
        (b"round 1", b"slot 4"),
        (b"round 1", b""),
        (b"round 1slot 3", b""),  # the two cannot be cut elsewhere
        (b"slot 3", b"round 1"),
    ]:
        with pytest.raises(SealedMessageError, match="do not open"):
            open_sealed(key, sealed, info=info, aad=aad)


@both_suites
def test_nobody_else_opens_it(key):
    sealed = sealed_to(key)
    for other in (*KEYS.values(), sealing_key(key.suite, bytes(32))):
        if other is not key:
            with pytest.raises(SealedMessageError):
                open_sealed(other, sealed, info=INFO, aad=b"slot 3")


@both_suites
def test_no_byte_of_a_sealed_message_can_be_changed_cut_off_or_added(key):
    sealed = sealed_to(key)
    changed = (
        sealed[:place] + bytes([sealed[place] ^ 1 << place % 8]) + sealed[place + 1 :]
        for place in range(len(sealed))
    )
    cut = (sealed[:end] for end in range(len(sealed)))
    for broken in itertools.chain(changed, cut, [sealed + b"\0"]):
        with pytest.raises(SealedMessageError, match="do not open"):
            open_sealed(key, broken, info=INFO, aad=b"slot 3")


@both_suites
@given(data=st.binary(max_size=1300))
def test_garbage_does_not_open(key, data):
    with pytest.raises(SealedMessageError):
        open_sealed(key, data, info=INFO)


@both_suites
def test_the_same_message_is_sealed_to_different_bytes(key):
    assert sealed_to(key) != sealed_to(key)


@pytest.mark.parametrize(
    ("suite", "public_key"),
    [
        (X25519_SUITE, b""),
        (X25519_SUITE, bytes(31)),
        (X25519_SUITE, bytes(32)),  # a point of low order: the secret would be known to all
        (X25519_SUITE, bytes([1]) + bytes(31)),
        (HYBRID_SUITE, KEYS[X25519_SUITE].public_key),
        (HYBRID_SUITE, KEYS[HYBRID_SUITE].public_key[:-1]),
        (HYBRID_SUITE, KEYS[HYBRID_SUITE].public_key + b"\0"),
        (HYBRID_SUITE, b"\xff" * 1216),  # coefficients beyond the modulus (FIPS 203, 7.2)
        (HYBRID_SUITE, KEYS[HYBRID_SUITE].public_key[:1184] + bytes(32)),
    ],
)
def test_nothing_is_sealed_to_what_is_no_key(suite, public_key):
    with pytest.raises(SealedMessageError, match=suite) as raised:
        seal(suite, public_key, b"a seed", info=INFO)
    assert isinstance(raised.value, ProtocolError)


# --- suites ---


def test_an_unknown_suite_is_refused_by_everything_that_takes_one():
    for call in (
        lambda: check_suite("rot13"),
        lambda: sealed_bytes("rot13", 1),
        lambda: sealing_key("rot13", bytes(32)),
        lambda: seal("rot13", bytes(32), b"", info=INFO),
    ):
        with pytest.raises(
            SuiteError, match="'rot13' is unknown; there are x25519, mlkem768-x25519"
        ):
            call()


def test_where_the_library_lacks_the_hybrid_suite_it_is_said_which_one_has_it(monkeypatch):
    class Lacking:
        """As a build of `cryptography` without ML-KEM has it."""

        @staticmethod
        def from_seed_bytes(_seed):
            raise UnsupportedAlgorithm("ML-KEM-768 is not supported by this version of OpenSSL.")

        from_public_bytes = from_seed_bytes

    monkeypatch.setattr(sealing, "MLKEM768PrivateKey", Lacking)
    monkeypatch.setattr(sealing, "MLKEM768PublicKey", Lacking)
    for call in (
        lambda: check_suite(HYBRID_SUITE),
        lambda: sealing_key(HYBRID_SUITE, bytes(32)),
        lambda: seal(HYBRID_SUITE, KEYS[HYBRID_SUITE].public_key, b"", info=INFO),
    ):
        with pytest.raises(SuiteError, match=r"version 47 or newer, or choose x25519") as raised:
            call()
        assert isinstance(raised.value, UsageError)
    check_suite(X25519_SUITE)


@both_suites
def test_a_key_comes_back_from_its_seed_and_does_not_show_it(key):
    assert sealing_key(key.suite, key.seed) == key
    assert key.seed.hex() not in repr(key)
    assert repr(key.seed) not in repr(key)
    with pytest.raises(ValueError, match="32 bytes, got 31"):
        sealing_key(key.suite, key.seed[1:])


# --- whose key it is ---


@both_suites
def test_a_signed_key_names_its_owner(key):
    signed = SignedSealingKey.FromString(sign_sealing_key(key, HELPER).SerializeToString())
    assert verify_sealing_key(signed, TRUST, Role.HELPER, NOW).name == "kerb-1"
    message = seal(signed.suite, signed.sealing_key, b"a seed", info=INFO)
    assert open_sealed(key, message, info=INFO) == b"a seed"


def resigned(**changes):
    """A signed key of the helper's, changed before the helper signed it."""
    signed = sign_sealing_key(KEYS[X25519_SUITE], HELPER)
    for name, value in changes.items():
        setattr(signed, name, value)
    message = sealing.signed_sealing_message(signed.suite, signed.sealing_key)
    signed.signature = HELPER.sign(message)
    return signed


def changed(**changes):
    """A signed key of the helper's, changed after the helper signed it."""
    signed = sign_sealing_key(KEYS[X25519_SUITE], HELPER)
    for name, value in changes.items():
        setattr(signed, name, value)
    return signed


@pytest.mark.parametrize(
    ("signed", "error"),
    [
        (SignedSealingKey(), UntrustedPeerError),
        (changed(certificate=HELPER.certificate[:-1]), UntrustedPeerError),
        # The server puts its own key under the helper's name.
        (changed(sealing_key=sealing_key(X25519_SUITE, bytes(32)).public_key), BadSignatureError),
        (changed(suite=HYBRID_SUITE), BadSignatureError),
        (changed(suite=""), BadSignatureError),
        (changed(signature=b""), BadSignatureError),
        # A member puts somebody else's key under its own name.
        (
            changed(certificate=AUTHORITY.issue("kerb-2", Role.HELPER, NOW).certificate),
            BadSignatureError,
        ),
        (resigned(suite="rot13"), SuiteError),
        (resigned(sealing_key=b"short"), SealedMessageError),
        (resigned(suite=HYBRID_SUITE), SealedMessageError),
    ],
)
def test_a_key_that_its_owner_did_not_sign_is_refused(signed, error):
    with pytest.raises(error) as raised:
        verify_sealing_key(signed, TRUST, Role.HELPER, NOW)
    assert isinstance(raised.value, ProtocolError)


def test_an_owner_of_another_role_or_not_in_force_is_refused():
    signed = sign_sealing_key(KEYS[X25519_SUITE], HELPER)
    with pytest.raises(UntrustedPeerError, match="its role is helper, not aggregator"):
        verify_sealing_key(signed, TRUST, Role.AGGREGATOR, NOW)
    with pytest.raises(UntrustedPeerError, match="expired"):
        verify_sealing_key(signed, TRUST, Role.HELPER, NOW + timedelta(days=366))
    authority = FleetAuthority.create(NOW, drawn("fleet"))
    authority.issue("kerb-1", Role.HELPER, NOW)
    authority.revoke("kerb-1", NOW)
    with pytest.raises(UntrustedPeerError, match="revoked"):
        verify_sealing_key(signed, authority.trust(), Role.HELPER, NOW)


@given(st.data())
def test_no_byte_of_a_signed_key_can_be_changed(data):
    signed = sign_sealing_key(KEYS[X25519_SUITE], HELPER)
    name = data.draw(st.sampled_from(["certificate", "sealing_key", "signature"]))
    value = bytearray(getattr(signed, name))
    value[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))
    setattr(signed, name, bytes(value))
    with pytest.raises((UntrustedPeerError, BadSignatureError)):
        verify_sealing_key(signed, TRUST, Role.HELPER, NOW)


# --- golden vectors ---

GOLDEN = tomllib.loads(VECTORS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("golden", GOLDEN["suite"], ids=lambda one: one["name"])
def test_the_golden_keys_are_derived_signed_and_open_their_message(golden):
    key = sealing_key(golden["name"], bytes.fromhex(golden["seed"]))
    assert key == KEYS[golden["name"]]
    assert key.public_key.hex() == golden["public_key"]
    signed = sign_sealing_key(key, HELPER)
    assert signed.SerializeToString(deterministic=True).hex() == golden["signed_sealing_key"]
    info, aad = GOLDEN["info"].encode(), GOLDEN["aad"].encode()
    opened = open_sealed(key, bytes.fromhex(golden["sealed"]), info=info, aad=aad)
    assert opened == GOLDEN["message"].encode()


def test_a_hybrid_key_pair_is_that_of_x_wing():
    # draft-connolly-cfrg-xwing-kem, appendix C, first vector: the seed, then both ends of the key.
    seed = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"
    public_key = sealing_key(HYBRID_SUITE, bytes.fromhex(seed)).public_key.hex()
    assert public_key.startswith("e2236b35a8c24b39b10aa1323a96a919a2ced884")
    assert public_key.endswith("859edb06eff389b27dce59844570216223593d4ba32d9abac8cd049040ef6534")


@pytest.mark.parametrize("broken", GOLDEN["broken_sealed"], ids=lambda one: one["what"])
def test_the_broken_messages_do_not_open(broken):
    info, aad = GOLDEN["info"].encode(), GOLDEN["aad"].encode()
    with pytest.raises(SealedMessageError):
        open_sealed(KEYS[broken["suite"]], bytes.fromhex(broken["bytes"]), info=info, aad=aad)
