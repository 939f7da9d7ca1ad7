"""A sealed update opens for the aggregator, as it was sent and under its own instructions alone."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_sum import NOW, authority, fixed_random, flips, identity, new_authority

from convoy_privacy.certificates import Role
from convoy_privacy.errors import (
    BadSignatureError,
    SealedMessageError,
    SuiteError,
    UnknownPeerError,
    UntrustedPeerError,
    WrongContextError,
)
from convoy_privacy.sealed_update import open_update, seal_update
from convoy_privacy.sealing import (
    HYBRID_SUITE,
    X25519_SUITE,
    generate_sealing_key,
    sealed_bytes,
    sign_sealing_key,
)
from convoy_protos.v1.federation_pb2 import UpdateHeader

CONTEXT = bytes(range(32))
KEY = generate_sealing_key(X25519_SUITE, fixed_random("sealed update"))
SENDER = identity(1)
PAYLOAD = b"what a vehicle has learned"


def a_header(**changes):
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
    for name, value in changes.items():
        setattr(header, name, value)
    return header


def sealed_by(sender=SENDER, payload=PAYLOAD, key=KEY, header=None):
    """Sealed payload and the header as it travels."""
    header = header or a_header()
    aggregator = sign_sealing_key(key, identity(90, Role.AGGREGATOR))
    sealed, header.signature = seal_update(payload, header, aggregator, sender)
    header.payload_bytes = len(sealed)
    return sealed, header


def opened(sealed, header, *, context=CONTEXT, key=KEY, trust=None):
    return open_update(
        memoryview(sealed),
        header,
        context_digest=context,
        key=key,
        trust=trust or authority().trust(),
        now=NOW,
    )


@given(st.binary(max_size=200))
def test_any_payload_opens_as_it_was_sealed(payload):
    sealed, header = sealed_by(payload=payload)
    assert opened(sealed, header) == payload
    assert len(sealed) == sealed_bytes(X25519_SUITE, len(payload))
    if len(payload) > 8:
        assert payload not in sealed


def test_the_hybrid_suite_opens_as_well():
    try:
        key = generate_sealing_key(HYBRID_SUITE, fixed_random("hybrid"))
    except SuiteError as error:
        pytest.skip(str(error))
    assert opened(*sealed_by(key=key), key=key) == PAYLOAD


def test_the_header_is_left_as_it_was():
    header = a_header()
    aggregator = sign_sealing_key(KEY, identity(90, Role.AGGREGATOR))
    _, signature = seal_update(PAYLOAD, header, aggregator, SENDER)
    assert header == a_header()
    assert len(signature) == 64


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run_id", "another"),
        ("round", 5),
        ("schema_digest", b"t" * 32),
        ("codec", "float32/1"),
        ("parameter_count", 101),
        ("example_count", 5000),  # more weight than the vehicle claims
        ("example_count", 0),
    ],
)
def test_no_field_of_the_header_can_be_changed_on_the_way(field, value):
    sealed, header = sealed_by()
    setattr(header, field, value)
    with pytest.raises(BadSignatureError):
        opened(sealed, header)


@pytest.mark.parametrize(
    "change",
    [
        lambda metrics: metrics.update({"train_loss": 0.25}),
        lambda metrics: metrics.update({"accuracy": 1.0}),
        lambda metrics: metrics.clear(),
    ],
)
def test_metrics_cannot_be_changed_on_the_way(change):
    sealed, header = sealed_by()
    change(header.metrics)
    with pytest.raises(BadSignatureError):
        opened(sealed, header)


def test_every_field_of_the_header_is_covered():
    """A field that is added later must not be forgotten: it is signed, or named here."""
    by_themselves = {"signature", "payload_bytes"}  # what signs, and a length of what is signed
    by_other_checks = {"vehicle_id", "context_digest", "certificate"}
    changed = {"run_id", "round", "schema_digest", "codec", "parameter_count", "example_count"}
    named = by_themselves | by_other_checks | changed | {"metrics"}
    assert {field.name for field in UpdateHeader.DESCRIPTOR.fields} == named


def test_no_bit_of_the_sealed_payload_can_be_changed_on_the_way():
    sealed, header = sealed_by()
    for altered in (*flips(sealed), sealed[:-1], sealed + b"\x00", b""):
        with pytest.raises(BadSignatureError):
            opened(altered, header)


def test_no_bit_of_the_signature_can_be_changed_on_the_way():
    sealed, header = sealed_by()
    signature = header.signature
    for altered in (*flips(signature), signature[:-1], signature + b"\x00", b"", bytes(64)):
        header.signature = altered
        with pytest.raises(BadSignatureError):
            opened(sealed, header)


def test_an_altered_payload_does_not_open_even_for_who_signs_it_anew():
    """The signature is no more than who it is from: the seal holds by itself."""
    sealed, _ = sealed_by()
    for altered in flips(sealed)[::7]:
        header = a_header()
        header.signature = SENDER.sign(signed_over(header, altered))
        with pytest.raises(SealedMessageError):
            opened(altered, header)


def test_a_payload_sealed_with_one_header_does_not_open_under_another_that_is_signed_anew():
    sealed, _ = sealed_by()
    heavier = a_header(example_count=5000)
    heavier.signature = SENDER.sign(signed_over(heavier, sealed))
    with pytest.raises(SealedMessageError):
        opened(sealed, heavier)


def signed_over(header, sealed):
    """What a vehicle signs; see convoy_privacy.sealed_update."""
    bound = UpdateHeader()
    bound.CopyFrom(header)
    bound.ClearField("signature")
    bound.ClearField("payload_bytes")
    encoded = bound.SerializeToString(deterministic=True)
    return (
        b"convoy sealed upload/1"
        + header.context_digest
        + hashlib.sha256(encoded).digest()
        + hashlib.sha256(sealed).digest()
    )


def test_what_was_sealed_under_other_instructions_is_refused():
    sealed, header = sealed_by()
    with pytest.raises(WrongContextError):
        opened(sealed, header, context=bytes(32))
    with pytest.raises(WrongContextError):
        opened(sealed, header, context=b"")


def test_an_update_of_one_round_cannot_be_dressed_up_for_another():
    """The context in the header is signed and sealed too."""
    sealed, header = sealed_by()
    header.context_digest = bytes(32)
    with pytest.raises(BadSignatureError):
        opened(sealed, header, context=bytes(32))


def test_another_key_does_not_open_it():
    sealed, header = sealed_by()
    with pytest.raises(SealedMessageError):
        opened(sealed, header, key=generate_sealing_key(X25519_SUITE, fixed_random("another")))


def test_a_vehicle_of_another_fleet_is_refused():
    stranger = new_authority("another fleet").issue(SENDER.name, Role.VEHICLE, NOW)
    header = a_header(certificate=stranger.certificate)
    with pytest.raises(UntrustedPeerError):
        opened(*sealed_by(stranger, header=header))


@pytest.mark.parametrize("certificate", [b"", b"\x30\x03\x02\x01\x00", b"\xff" * 300])
def test_a_certificate_that_is_none_is_refused(certificate):
    with pytest.raises(UntrustedPeerError):
        opened(*sealed_by(header=a_header(certificate=certificate)))


def test_nobody_sends_for_another_vehicle():
    other = identity(2)
    with pytest.raises(UnknownPeerError, match=f"{SENDER.name} sent the certificate of"):
        opened(*sealed_by(other, header=a_header(certificate=other.certificate)))


def test_another_vehicle_s_certificate_needs_its_signature():
    with pytest.raises(BadSignatureError):
        opened(*sealed_by(identity(2)))


def test_an_aggregator_is_no_vehicle():
    aggregator = identity(91, Role.AGGREGATOR)
    header = a_header(certificate=aggregator.certificate, vehicle_id=aggregator.name)
    with pytest.raises(UntrustedPeerError, match="role"):
        opened(*sealed_by(aggregator, header=header))


def test_a_revoked_vehicle_is_refused():
    fleet = new_authority("with a revoked one")
    revoked = fleet.issue(SENDER.name, Role.VEHICLE, NOW)
    message = sealed_by(revoked, header=a_header(certificate=revoked.certificate))
    assert opened(*message, trust=fleet.trust()) == PAYLOAD

    fleet.revoke(SENDER.name, NOW)

    with pytest.raises(UntrustedPeerError, match="revoked"):
        opened(*message, trust=fleet.trust())
