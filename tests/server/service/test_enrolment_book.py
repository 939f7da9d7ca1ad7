"""Who may join with which token, and who gets a certificate after the one held."""

import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from small_enrolment import NOW, Device

from convoy_privacy.certificates import Role
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_protos.enrolment_token import join_bytes, renewal_bytes
from convoy_protos.errors import UsageError
from convoy_protos.v1.enrolment_pb2 import JoinRequest, JoinToken, RenewRequest
from convoy_server.errors import EnrolmentRefusedError, Refusal
from convoy_server.service.enrolment_book import (
    Enrolment,
    Node,
    bind,
    check_free,
    check_renewal,
    new_enrolment,
    node_after,
)

SECRET = b"0123456789abcdef"
TOKEN = JoinToken(token_id=b"12345678", secret=SECRET, name="car-07")
UNUSED = Enrolment(
    token_id=TOKEN.token_id,
    name="car-07",
    role=Role.VEHICLE,
    secret_sha256=hashlib.sha256(SECRET).digest(),
    expires=NOW + timedelta(hours=24),
)
DEVICE = Device()
AUTHORITY = FleetAuthority.create(NOW)


def openssh(key):
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def signed(request, key=DEVICE.identity_key):
    request.signature = key.sign(join_bytes(request))


def test_a_new_token_has_a_secret_that_the_server_does_not_keep():
    enrolment, secret = new_enrolment("car-07", Role.VEHICLE, NOW, 24, lambda size: b"x" * size)
    assert secret == b"x" * 16
    assert enrolment.secret_sha256 == hashlib.sha256(secret).digest()
    assert secret.hex() not in repr(enrolment)


@pytest.mark.parametrize(
    ("name", "role", "hours"),
    [
        ("", Role.VEHICLE, 24),
        ("node-7", Role.VEHICLE, 24),
        ("car-07", Role.AGGREGATOR, 24),  # collects updates: made where the CA is, by hand
        ("car-07", Role.VEHICLE, 0),
        ("car-07", Role.VEHICLE, 721),
    ],
)
def test_no_token_is_made_for_what_cannot_join(name, role, hours):
    with pytest.raises(UsageError):
        new_enrolment(name, role, NOW, hours, bytes)


def test_a_token_binds_to_the_first_device_and_answers_it_again():
    bound = bind(UNUSED, DEVICE.request(TOKEN), NOW)
    assert bound.keys.identity_key == DEVICE.identity_key.public_key().public_bytes_raw()
    assert bind(bound, DEVICE.request(TOKEN), NOW) == bound
    # An answer may be asked for also after the token's end: the CA can be slow.
    assert bind(bound, DEVICE.request(TOKEN), NOW + timedelta(days=60)) == bound


def test_a_comment_in_the_node_key_makes_no_other_device():
    bound = bind(UNUSED, DEVICE.request(TOKEN), NOW)

    def comment(request):
        request.node_key += b" somebody@somewhere"
        signed(request)

    assert bind(bound, DEVICE.request(TOKEN, comment), NOW) == bound


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda r: setattr(r, "secret", b"0" * 16), Refusal.UNKNOWN_TOKEN),
        (lambda r: setattr(r, "secret", b""), Refusal.UNKNOWN_TOKEN),
        (lambda r: setattr(r, "secret", SECRET + b"0"), Refusal.UNKNOWN_TOKEN),
        (lambda r: setattr(r, "name", "car-08"), Refusal.MALFORMED),
        (lambda r: setattr(r, "identity_key", bytes(31)), Refusal.MALFORMED),
        (lambda r: setattr(r, "identity_key", bytes(32)), Refusal.MALFORMED),
        (lambda r: setattr(r, "signature", bytes(64)), Refusal.MALFORMED),
        (lambda r: setattr(r, "signature", b""), Refusal.MALFORMED),
        # whoever listens in cannot put a node key of their own beside the identity
        (lambda r: setattr(r, "node_key", openssh(Device().node_key)), Refusal.MALFORMED),
    ],
)
def test_a_request_that_does_not_fit_is_refused(change, refusal):
    with pytest.raises(EnrolmentRefusedError) as raised:
        bind(UNUSED, DEVICE.request(TOKEN, change), NOW)
    assert raised.value.refusal is refusal
    assert SECRET.hex() not in str(raised.value)


@pytest.mark.parametrize(
    "node_key",
    [
        b"",
        b"ssh-rsa AAAA",
        b"x" * 600,
        openssh(ec.generate_private_key(ec.SECP256R1())),
        openssh(Ed25519PrivateKey.generate()),
    ],
    ids=["empty", "cut", "long", "P-256", "Ed25519"],
)
def test_a_node_key_that_flower_would_not_take_is_refused(node_key):
    def change(request):
        request.node_key = node_key
        signed(request)

    with pytest.raises(EnrolmentRefusedError) as raised:
        bind(UNUSED, DEVICE.request(TOKEN, change), NOW)
    assert raised.value.refusal is Refusal.MALFORMED


def test_an_unknown_token_and_a_wrong_secret_are_told_alike():
    answers = []
    for enrolment, secret in ((None, SECRET), (UNUSED, b"0" * 16)):
        request = DEVICE.request(TOKEN)
        request.secret = secret
        with pytest.raises(EnrolmentRefusedError) as raised:
            bind(enrolment, request, NOW)
        answers.append((raised.value.refusal, str(raised.value)))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "other",
    [
        Device(),
        Device(identity_key=DEVICE.identity_key),
        Device(node_key=DEVICE.node_key),
    ],
    ids=["both keys", "node key", "identity key"],
)
def test_a_used_token_takes_no_other_key(other):
    bound = bind(UNUSED, DEVICE.request(TOKEN), NOW)
    with pytest.raises(EnrolmentRefusedError, match="used by another device") as raised:
        bind(bound, other.request(TOKEN), NOW)
    assert raised.value.refusal is Refusal.USED


def test_an_unused_token_ends():
    late = UNUSED.expires
    assert bind(UNUSED, DEVICE.request(TOKEN), late - timedelta(seconds=1)).keys
    with pytest.raises(EnrolmentRefusedError, match="ended at") as raised:
        bind(UNUSED, DEVICE.request(TOKEN), late)
    assert raised.value.refusal is Refusal.EXPIRED


@given(st.binary(max_size=600))
def test_garbage_is_refused_and_nothing_else_happens(data):
    request = JoinRequest(
        token_id=TOKEN.token_id,
        secret=SECRET,
        name="car-07",
        identity_key=data[:32],
        signature=data[32:96],
        node_key=data[96:],
    )
    with pytest.raises(EnrolmentRefusedError):
        bind(UNUSED, request, NOW)
    # also where the signature fits
    if len(data) >= 32:
        request.identity_key = DEVICE.identity_key.public_key().public_bytes_raw()
        signed(request)
        with pytest.raises(EnrolmentRefusedError):
            bind(UNUSED, request, NOW)


# --- renewal ---


def member(name="car-07", role=Role.VEHICLE, days=30, authority=AUTHORITY):
    return authority.issue(name, role, NOW, days, renew=True)


def renewal(identity):
    signature = identity.sign(renewal_bytes(identity.certificate))
    return RenewRequest(certificate=identity.certificate, signature=signature)


LATE = NOW + timedelta(days=20)


def test_a_member_gets_its_next_certificate_in_the_second_half_of_the_first():
    one = member()
    assert check_renewal(renewal(one), AUTHORITY.trust(), LATE).member.name == "car-07"
    with pytest.raises(EnrolmentRefusedError, match="more than half") as raised:
        check_renewal(renewal(one), AUTHORITY.trust(), NOW + timedelta(days=14))
    assert raised.value.refusal is Refusal.EARLY


def test_no_certificate_for_the_revoked():
    authority = FleetAuthority.create(NOW)
    one = member(authority=authority)
    authority.revoke("car-07", LATE)
    with pytest.raises(EnrolmentRefusedError, match="revoked") as raised:
        check_renewal(renewal(one), authority.trust(), LATE)
    assert raised.value.refusal is Refusal.UNTRUSTED


@pytest.mark.parametrize(
    ("request_", "now"),
    [
        (renewal(member(days=10)), LATE),  # expired
        (renewal(member("depot", Role.AGGREGATOR)), LATE),
        (renewal(member(authority=FleetAuthority.create(NOW))), LATE),  # another fleet
        (RenewRequest(certificate=member().certificate, signature=bytes(64)), LATE),
        (RenewRequest(certificate=member().certificate), LATE),
        (RenewRequest(), LATE),
    ],
)
def test_no_certificate_for_strangers(request_, now):
    with pytest.raises(EnrolmentRefusedError) as raised:
        check_renewal(request_, AUTHORITY.trust(), now)
    assert raised.value.refusal is Refusal.UNTRUSTED


def test_a_signature_to_join_does_not_renew():
    one = member()
    request = renewal(one)
    request.signature = one.sign(join_bytes(JoinRequest()))
    with pytest.raises(EnrolmentRefusedError):
        check_renewal(request, AUTHORITY.trust(), LATE)


@given(st.binary(max_size=3000), st.binary(max_size=100))
def test_garbage_renews_nothing(certificate, signature):
    with pytest.raises(EnrolmentRefusedError):
        check_renewal(
            RenewRequest(certificate=certificate, signature=signature), AUTHORITY.trust(), LATE
        )


# --- names, nodes ---


def test_a_name_is_free_again_when_its_device_is_revoked_or_its_certificate_over():
    authority = FleetAuthority.create(NOW)
    identity = member(authority=authority)
    waiting = bind(UNUSED, DEVICE.request(TOKEN), NOW)
    done = replace(waiting, certificate=identity.certificate)

    check_free("car-07", [UNUSED], authority.trust(), NOW)  # nobody used it
    check_free("car-08", [waiting, done], authority.trust(), NOW)
    with pytest.raises(UsageError, match="waits for the CA"):
        check_free("car-07", [waiting], authority.trust(), NOW)
    with pytest.raises(UsageError, match="in the fleet already"):
        check_free("car-07", [done], authority.trust(), NOW)
    check_free("car-07", [done], authority.trust(), NOW + timedelta(days=31))
    authority.revoke("car-07", NOW)
    check_free("car-07", [done], authority.trust(), NOW)


def test_flower_is_told_of_members_and_of_those_that_are_none_any_more():
    waiting = bind(UNUSED, DEVICE.request(TOKEN), NOW)
    done = replace(waiting, certificate=b"signed")
    key = waiting.keys.identity_key
    assert node_after(UNUSED, set()) is Node.UNKNOWN
    assert node_after(waiting, set()) is Node.UNKNOWN
    assert node_after(done, set()) is Node.REGISTERED
    assert node_after(done, {key}) is Node.UNKNOWN  # never told, nothing to take back
    assert node_after(replace(done, node=Node.REGISTERED), {key}) is Node.UNREGISTERED
    assert node_after(replace(done, node=Node.UNREGISTERED), {key}) is Node.UNREGISTERED
