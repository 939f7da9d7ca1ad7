"""Passes: who gets one, what it says, and that the list of revocations ends it."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_der_x509_certificate
from small_enrolment import NOW, make_office

from convoy_edge_client.errors import EnrolmentError
from convoy_edge_client.releases.service_pass import service_pass
from convoy_privacy.certificates import Identity, Role
from convoy_privacy.fleet_store import load_fleet, save_fleet
from convoy_privacy.key_files import read_certificate
from convoy_privacy.tls_authority import read_client
from convoy_protos.enrolment_token import pass_bytes
from convoy_protos.v1.enrolment_pb2 import PassReply, PassRequest
from convoy_server.errors import EnrolmentRefusedError, Refusal
from convoy_server.service.passes import MemberList, PassOffice, check_pass, pass_authority


@pytest.fixture
def office(tmp_path):
    return make_office(tmp_path)


@pytest.fixture
def members(office):
    return MemberList(office.depot)


@pytest.fixture
def passes(office, members):
    return PassOffice(pass_authority(office.config.state_folder, NOW), members)


@pytest.fixture
def car(office):
    authority = load_fleet(office.fleet)
    identity = authority.issue("car-07", Role.VEHICLE, NOW)
    save_fleet(office.fleet, authority)
    return Identity(
        certificate=identity.certificate, signing_key=identity.signing_key, name="car-07"
    )


def revoke(office):
    office.revoke("car-07")
    newest = (office.fleet / "revoked.crl").read_bytes()
    path = office.depot / "revoked.crl"
    path.with_suffix(".new").write_bytes(newest)
    path.with_suffix(".new").replace(path)


def spki(key):
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def request(car, tls_key=None):
    public = spki(tls_key or ec.generate_private_key(ec.SECP256R1()))
    return PassRequest(
        certificate=car.certificate,
        tls_public_key=public,
        signature=car.sign(pass_bytes(car.certificate, public)),
    )


def test_a_pass_names_the_member_and_its_certificate(passes, car):
    key = ec.generate_private_key(ec.SECP256R1())
    issued = load_der_x509_certificate(passes.issue(request(car, key), NOW).tls_certificate)
    serial = load_der_x509_certificate(car.certificate).serial_number
    assert read_client(issued.public_bytes(Encoding.PEM)) == ("car-07", serial)
    assert issued.public_key() == key.public_key()
    assert 6 < (issued.not_valid_after_utc - NOW).days <= 7


def refusal(act):
    with pytest.raises(EnrolmentRefusedError) as caught:
        act()
    return caught.value.refusal


def test_who_was_revoked_gets_no_pass_and_calls_no_more(office, members, passes, car):
    serial = load_der_x509_certificate(car.certificate).serial_number
    assert members.has("car-07", serial)
    revoke(office)
    assert not members.has("car-07", serial)
    assert refusal(lambda: passes.issue(request(car), NOW)) is Refusal.UNTRUSTED


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("certificate", b"", Refusal.UNTRUSTED),
        ("certificate", b"\x30" * 400, Refusal.UNTRUSTED),
        ("signature", b"", Refusal.UNTRUSTED),
        ("signature", b"\0" * 64, Refusal.UNTRUSTED),
        ("tls_public_key", b"", Refusal.UNTRUSTED),  # another key than was signed for
    ],
)
def test_a_request_with_one_false_field_is_refused(passes, car, field, value, why):
    asked = request(car)
    setattr(asked, field, value)
    assert refusal(lambda: passes.issue(asked, NOW)) is why


@pytest.mark.parametrize(
    "public",
    [
        b"garbage",
        b"\x30" * 300,
        spki(Ed25519PrivateKey.generate()),
        spki(ec.generate_private_key(ec.SECP384R1())),
    ],
    ids=["garbage", "endless", "Ed25519", "P-384"],
)
def test_a_key_that_is_none_for_tls_is_refused(members, car, public):
    asked = PassRequest(
        certificate=car.certificate,
        tls_public_key=public,
        signature=car.sign(pass_bytes(car.certificate, public)),
    )
    assert refusal(lambda: check_pass(asked, members.trust(), NOW)) is Refusal.MALFORMED


def test_the_ca_of_passes_is_made_once(office):
    first, second = (pass_authority(office.config.state_folder, NOW) for _ in range(2))
    assert first.certificate == second.certificate


def tls_ca(office):
    return read_certificate(office.folder / "cloud" / "tls-ca.pem")


def test_a_vehicle_keeps_its_pass_until_it_ends_soon(office, passes, car, tmp_path):
    path = tmp_path / "pass.pem"
    with office.serving(passes=passes) as address:
        first = service_pass(path, car, address, tls_ca(office), NOW)
        assert service_pass(path, car, "nowhere:1", tls_ca(office), NOW) == first
        assert path.stat().st_mode & 0o077 == 0
        later = NOW + timedelta(days=5)
        assert service_pass(path, car, address, tls_ca(office), later) != first
        path.write_text("torn")
        assert service_pass(path, car, address, tls_ca(office), NOW) != first


def test_a_server_without_releases_says_that_no_pass_is_needed(office, car, tmp_path):
    with (
        office.serving() as address,
        pytest.raises(EnrolmentError, match="no release service"),
    ):
        service_pass(tmp_path / "pass.pem", car, address, tls_ca(office), NOW)


def test_what_is_no_pass_for_this_key_is_not_kept(office, car, tmp_path):
    class Lying:
        def issue(self, _request, now):
            other = ec.generate_private_key(ec.SECP256R1()).public_key()
            authority = pass_authority(office.config.state_folder, now)
            return PassReply(tls_certificate=authority.certify_client("car-07", 1, other, now, 1))

    with (
        office.serving(passes=Lying()) as address,
        pytest.raises(EnrolmentError, match="for another key"),
    ):
        service_pass(tmp_path / "pass.pem", car, address, tls_ca(office), NOW)
    assert not (tmp_path / "pass.pem").exists()
