"""Who is let in by a certificate, and who is not."""

import hashlib
import itertools
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from convoy_privacy.certificates import (
    MAX_CERTIFICATE_BYTES,
    Member,
    Role,
    Trust,
    certified,
    check_name,
    read_revocations,
)
from convoy_privacy.errors import BadSignatureError, RevocationListError, UntrustedPeerError
from convoy_privacy.fleet_authority import CLOCK_SLACK, FleetAuthority
from convoy_protos.errors import ProtocolError

VECTORS = Path(__file__).parents[1] / "vectors" / "certificates.toml"
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def drawn(label):
    """Bytes that look random and are the same each time: how the golden vectors were made."""
    counter = itertools.count()
    return lambda size: hashlib.shake_256(f"{label} {next(counter)}".encode()).digest(size)


AUTHORITY = FleetAuthority.create(NOW, drawn("fleet"))
TRUST = AUTHORITY.trust()
CAR = AUTHORITY.issue("car-07", Role.VEHICLE, NOW, days=30)
FOREIGN = FleetAuthority.create(NOW, drawn("another fleet"))


# --- whom a certificate lets in ---


def test_a_member_is_known_by_its_name_role_and_key():
    member = TRUST.verify(CAR.certificate, Role.VEHICLE, NOW)
    assert (member.name, member.role) == ("car-07", Role.VEHICLE)
    member.check_signature(CAR.sign(b"convoy test/1"), b"convoy test/1")


def test_another_message_or_another_signer_does_not_pass_as_the_members():
    member = TRUST.verify(CAR.certificate, Role.VEHICLE, NOW)
    other = AUTHORITY.issue("car-08", Role.VEHICLE, NOW)
    for signature in (CAR.sign(b"convoy test/2"), other.sign(b"convoy test/1"), b"", bytes(64)):
        with pytest.raises(BadSignatureError, match="car-07"):
            member.check_signature(signature, b"convoy test/1")


@pytest.mark.parametrize(
    ("after", "refused"),
    [
        (-CLOCK_SLACK - SECOND, "not valid before"),
        (-CLOCK_SLACK, None),  # a vehicle's clock that runs late
        (timedelta(days=30), None),  # the last second counts
        (timedelta(days=30) + SECOND, "expired"),
    ],
)
def test_a_certificate_is_in_force_from_an_hour_before_its_issue_to_its_end(after, refused):
    for _ in range(2):  # the second time out of the cache
        if refused is None:
            TRUST.verify(CAR.certificate, Role.VEHICLE, NOW + after)
        else:
            with pytest.raises(UntrustedPeerError, match=f"car-07 is not trusted: .*{refused}"):
                TRUST.verify(CAR.certificate, Role.VEHICLE, NOW + after)


@pytest.mark.parametrize("held", Role)
@pytest.mark.parametrize("wanted", Role)
def test_nobody_acts_in_another_role(held, wanted):
    certificate = AUTHORITY.issue("one", held, NOW, renew=True).certificate
    assert certified(AUTHORITY.public_key, certificate).member.role is held
    if held is wanted:
        assert TRUST.verify(certificate, wanted, NOW).role is held
    else:
        with pytest.raises(
            UntrustedPeerError, match=f"its role is {held.value}, not {wanted.value}"
        ):
            TRUST.verify(certificate, wanted, NOW)


def self_signed():
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    return FleetAuthority(key, b"", b"").certify("car-07", Role.VEHICLE, key.public_key(), NOW)


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        (FOREIGN.issue("car-07", Role.VEHICLE, NOW).certificate, "not signed by the fleet's CA"),
        (self_signed(), "not signed by the fleet's CA"),
        (AUTHORITY.certificate, "not one of a vehicle"),  # the CA takes no part itself
        (AUTHORITY.revocation_list, "error parsing"),  # signed by the CA, and no certificate
        (b"", "too few or too many"),
        (bytes(MAX_CERTIFICATE_BYTES + 1), "too few or too many"),
        (CAR.certificate + b"\0", "not signed with Ed25519"),
        (CAR.certificate[:-1], "not signed with Ed25519"),
    ],
)
def test_a_stranger_is_refused_with_the_reason(certificate, why):
    with pytest.raises(UntrustedPeerError, match=why) as raised:
        TRUST.verify(certificate, Role.VEHICLE, NOW)
    assert isinstance(raised.value, ProtocolError)


def ca_signed(subject, *, key=None, ca=False, usage=True, more=()):
    """A certificate as a CA with other software might sign one."""
    key = key or CAR.signing_key.public_key()
    builder = x509.CertificateBuilder(
        issuer_name=subject,
        subject_name=subject,
        public_key=key,
        serial_number=7,
    )
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if usage:
        flags = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        )
        flags |= dict.fromkeys(("crl_sign", "encipher_only", "decipher_only"), False)
        builder = builder.add_extension(
            x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, **flags), critical=True
        )
    for extension in more:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(AUTHORITY.signing_key, None).public_bytes(Encoding.DER)


def subject(*names, roles=("vehicle",)):
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names]
    attributes += [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role) for role in roles]
    return x509.Name(attributes)


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        (ca_signed(subject("car", "bus")), "one name and one role"),
        (ca_signed(subject()), "one name and one role"),
        (ca_signed(subject("car", roles=())), "one name and one role"),
        (ca_signed(subject("car", roles=("vehicle", "helper"))), "one name and one role"),
        (ca_signed(subject("car", roles=("driver",))), "'driver' is not a valid Role"),
        (ca_signed(subject("node-1")), "is no name"),
        (ca_signed(subject("car\n")), "is no name"),
        (ca_signed(subject("car"), ca=True), "not one of a vehicle"),  # could sign members itself
        (ca_signed(subject("car"), usage=False), "not say what it is for"),
        (
            ca_signed(subject("car"), key=ec.derive_private_key(1, ec.SECP256R1()).public_key()),
            "not one of a vehicle",
        ),
        # RFC 5280, 4.2: what is critical and not understood refuses the whole.
        (ca_signed(subject("car"), more=[x509.PolicyConstraints(0, None)]), "critical extension"),
    ],
)
def test_what_the_ca_signed_for_another_purpose_lets_nobody_in(certificate, why):
    with pytest.raises(UntrustedPeerError, match=why):
        TRUST.verify(certificate, Role.VEHICLE, NOW)


def test_a_certificate_signed_another_way_is_refused_before_it_is_parsed():
    key = ec.derive_private_key(1, ec.SECP256R1())
    builder = x509.CertificateBuilder(subject("ca"), subject("car"), key.public_key(), 7)
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    der = builder.sign(key, SHA256()).public_bytes(Encoding.DER)
    with pytest.raises(UntrustedPeerError, match="not signed with Ed25519"):
        TRUST.verify(der, Role.VEHICLE, NOW)


def test_no_bit_of_a_certificate_can_be_flipped_and_no_byte_cut_off():
    der = CAR.certificate
    flipped = (
        der[:place] + bytes([der[place] ^ 1 << bit]) + der[place + 1 :]
        for place in range(len(der))
        for bit in range(8)
    )
    for broken in itertools.chain(flipped, (der[:end] for end in range(len(der)))):
        with pytest.raises(UntrustedPeerError):
            TRUST.verify(broken, Role.VEHICLE, NOW)


@given(st.binary(min_size=1, max_size=400))
def test_garbage_is_refused_with_the_documented_error(data):
    with pytest.raises(UntrustedPeerError):
        TRUST.verify(data, Role.VEHICLE, NOW)
    with pytest.raises(RevocationListError):
        TRUST.with_revocations(data, NOW)


@given(st.data())
def test_garbage_with_the_look_of_a_signed_structure_is_refused_too(data):
    inner = data.draw(st.binary(min_size=50, max_size=110))
    body = (
        inner
        + bytes.fromhex("300506032b6570034100")
        + data.draw(st.binary(min_size=64, max_size=64))
    )
    header = bytes((0x30, len(body))) if len(body) < 128 else bytes((0x30, 0x81, len(body)))
    with pytest.raises(UntrustedPeerError, match="not signed by the fleet's CA"):
        TRUST.verify(header + body, Role.VEHICLE, NOW)


# --- revocation ---


def revoked_fleet():
    """A CA, a car that it admitted and revoked, and what parties held before that."""
    authority = FleetAuthority.create(NOW, drawn("revoking"), list_days=10)
    before = authority.trust()
    car = authority.issue("car-07", Role.VEHICLE, NOW)
    authority.revoke("car-07", NOW, list_days=10)
    return authority, car, before


def test_a_revoked_member_is_refused_by_whoever_has_the_list():
    authority, car, before = revoked_fleet()
    assert before.verify(car.certificate, Role.VEHICLE, NOW).name == "car-07"
    informed = before.with_revocations(authority.revocation_list, NOW)
    with pytest.raises(UntrustedPeerError, match=r"car-07 is not trusted: .*revoked"):
        informed.verify(car.certificate, Role.VEHICLE, NOW)
    assert before.revocations.number == 1  # a trust is a value: the old one is as it was


def test_a_trust_without_a_list_takes_the_first_it_gets():
    authority, car, before = revoked_fleet()
    fresh = Trust(before.ca_public_key)
    assert fresh.verify(car.certificate, Role.VEHICLE, NOW).name == "car-07"
    assert fresh.with_revocations(authority.revocation_list, NOW).revocations.number == 2


def test_a_list_that_forgets_somebody_is_refused():
    authority, _, before = revoked_fleet()
    informed = before.with_revocations(authority.revocation_list, NOW)
    with pytest.raises(RevocationListError, match="list 1 is older than 2"):
        informed.with_revocations(before.revocations.der, NOW)
    assert informed.with_revocations(authority.revocation_list, NOW) == informed


def test_two_lists_of_one_number_are_refused():
    authority, _, before = revoked_fleet()
    informed = before.with_revocations(authority.revocation_list, NOW)
    restored = FleetAuthority(authority.signing_key, authority.certificate, before.revocations.der)
    restored.renew_list(NOW, 10)  # of an old copy of the CA's folder: number 2 without car-07
    with pytest.raises(RevocationListError, match="two different revocation lists of number 2"):
        informed.with_revocations(restored.revocation_list, NOW)


@pytest.mark.parametrize(
    ("after", "accepted"), [(timedelta(days=10) - SECOND, True), (timedelta(days=10), False)]
)
def test_a_list_ends(after, accepted):
    authority, _, before = revoked_fleet()
    if accepted:
        before.with_revocations(authority.revocation_list, NOW + after)
    else:
        with pytest.raises(RevocationListError, match="list 2 ended at"):
            before.with_revocations(authority.revocation_list, NOW + after)


def test_a_peer_that_passes_on_no_list_does_not_get_around_the_end_of_the_one_held():
    _, _, before = revoked_fleet()
    assert before.with_revocations(b"", NOW) == before
    with pytest.raises(RevocationListError, match="list 1 ended at"):
        before.with_revocations(b"", NOW + timedelta(days=10))
    without = Trust(before.ca_public_key)  # a fleet that has no lists at all
    assert without.with_revocations(b"", NOW) == without


def test_no_bit_of_a_list_can_be_flipped():
    authority, _, before = revoked_fleet()
    der = authority.revocation_list
    for place in range(len(der)):
        broken = der[:place] + bytes([der[place] ^ 1 << place % 8]) + der[place + 1 :]
        with pytest.raises(RevocationListError):
            before.with_revocations(broken, NOW)


def ca_list(*extensions):
    builder = x509.CertificateRevocationListBuilder(issuer_name=subject("ca"))
    builder = builder.last_update(NOW).next_update(NOW + timedelta(days=1))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(AUTHORITY.signing_key, None).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("crl", "why"),
    [
        (FOREIGN.revocation_list, "not signed by the fleet's CA"),
        (CAR.certificate, "error parsing"),  # signed by the CA, and no list
        (ca_list(), "no number"),
        # Only what changed since list 1: whoever was revoked before would be back.
        (
            ca_list((x509.CRLNumber(9), False), (x509.DeltaCRLIndicator(1), True)),
            "not a complete list",
        ),
    ],
)
def test_what_is_no_complete_list_of_our_ca_is_refused(crl, why):
    with pytest.raises(RevocationListError, match=why):
        read_revocations(AUTHORITY.public_key, crl)


# --- the CA ---


def test_a_name_has_one_certificate_in_force_unless_it_is_renewed():
    authority = FleetAuthority.create(NOW)
    first = authority.issue("car-07", Role.VEHICLE, NOW, days=30)
    with pytest.raises(ValueError, match="car-07 has a certificate in force until 2026-12-01"):
        authority.issue("car-07", Role.VEHICLE, NOW)
    second = authority.issue("car-07", Role.VEHICLE, NOW, renew=True)
    later = NOW + timedelta(days=31)
    assert authority.trust().verify(second.certificate, Role.VEHICLE, later).name == "car-07"
    authority.revoke("car-07", NOW)
    for identity in (first, second):
        with pytest.raises(UntrustedPeerError, match="revoked"):
            authority.trust().verify(identity.certificate, Role.VEHICLE, NOW)


def test_a_revoked_or_expired_name_can_be_admitted_again():
    authority = FleetAuthority.create(NOW)
    authority.issue("car-07", Role.VEHICLE, NOW, days=1)
    after = NOW + timedelta(days=2)
    again = authority.issue("car-07", Role.VEHICLE, after)
    assert authority.revoke("car-07", after) == 1  # the expired one has ended by itself
    assert authority.revoke("car-07", after) == 0  # to no harm: the list is issued again
    new = authority.issue("car-07", Role.VEHICLE, after)
    authority.trust().verify(new.certificate, Role.VEHICLE, after)
    with pytest.raises(UntrustedPeerError, match="revoked"):
        authority.trust().verify(again.certificate, Role.VEHICLE, after)


def test_nobody_who_was_never_admitted_is_revoked():
    with pytest.raises(ValueError, match="nobody called 'car-09'"):
        FleetAuthority.create(NOW).revoke("car-09", NOW)


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("c", True),
        ("Lkw München 7", True),
        ("x" * 64, True),
        ("x" * 65, False),  # X.509's bound
        ("ü" * 33, False),  # it counts bytes
        ("", False),
        (" car", False),
        ("car\x1b[2J", False),  # would clear the terminal of whoever reads the log
        ("node-3", False),  # how the server calls whoever has not introduced itself
        ("ca\ud800r", False),  # no text at all
    ],
)
def test_names_are_short_and_printable(name, accepted):
    if accepted:
        check_name(name)
        FleetAuthority.create(NOW).issue(name, Role.VEHICLE, NOW)
    else:
        with pytest.raises(ValueError, match="is no name"):
            check_name(name)
        with pytest.raises(ValueError, match="is no name"):
            FleetAuthority.create(NOW).issue(name, Role.VEHICLE, NOW)


def test_a_certificate_lasts_a_day_at_least():
    with pytest.raises(ValueError, match="at least 1 day, got 0"):
        FleetAuthority.create(NOW).issue("car-07", Role.VEHICLE, NOW, days=0)


def test_a_printed_identity_shows_no_key():
    assert "signing_key" not in repr(CAR)


def test_a_thousand_vehicles_have_a_thousand_serials_and_keys():
    authority = FleetAuthority.create(NOW)
    fleet = [authority.issue(f"car-{i}", Role.VEHICLE, NOW) for i in range(1000)]
    members = [authority.trust().verify(one.certificate, Role.VEHICLE, NOW) for one in fleet]
    assert len({one.serial for one in members}) == 1000
    assert len({one.public_key.public_bytes_raw() for one in members}) == 1000
    assert [one.name for one in authority.issued] == [one.name for one in members]


# --- golden vectors ---


def test_the_golden_certificate_and_list_are_made_byte_for_byte():
    golden = tomllib.loads(VECTORS.read_text(encoding="utf-8"))
    authority = FleetAuthority.create(NOW, drawn("fleet"))
    car = authority.issue("car-07", Role.VEHICLE, NOW, days=30)
    authority.revoke("car-07", NOW)
    assert authority.public_key.hex() == golden["ca_public_key"]
    assert car.certificate.hex() == golden["certificate"]
    assert authority.revocation_list.hex() == golden["revocation_list"]


def test_the_golden_certificate_is_read_as_what_it_says():
    golden = tomllib.loads(VECTORS.read_text(encoding="utf-8"))
    trust = Trust(bytes.fromhex(golden["ca_public_key"]))
    member = trust.verify(bytes.fromhex(golden["certificate"]), Role.VEHICLE, NOW)
    assert member == Member(
        name="car-07",
        role=Role.VEHICLE,
        public_key=CAR.signing_key.public_key(),
        serial=int(golden["serial"], 16),
    )
    informed = trust.with_revocations(bytes.fromhex(golden["revocation_list"]), NOW)
    assert informed.revocations.serials == {member.serial}
    assert replace(informed, revocations=None) == trust


def test_the_broken_vectors_are_refused_for_what_is_broken_about_them():
    golden = tomllib.loads(VECTORS.read_text(encoding="utf-8"))
    trust = Trust(bytes.fromhex(golden["ca_public_key"]))
    for broken in golden["broken_certificate"]:
        with pytest.raises(UntrustedPeerError, match=broken["error"]):
            trust.verify(bytes.fromhex(broken["bytes"]), Role.VEHICLE, NOW)
