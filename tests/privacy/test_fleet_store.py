"""What the CA and its parties keep on disk, and what they refuse to read."""

import fcntl
import json
import os
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from convoy_privacy import key_files
from convoy_privacy.certificates import Role
from convoy_privacy.errors import FleetFolderError, RevocationListError
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.fleet_store import create_fleet, load_book, load_fleet, locked, save_fleet
from convoy_privacy.party import load_party, save_party, save_revocations
from convoy_privacy.sealing import SUITES, generate_sealing_key, open_sealed, seal
from convoy_protos.errors import UsageError

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
def authority():
    return FleetAuthority.create(NOW)


@pytest.fixture
def car(tmp_path, authority):
    """The folder of car-07."""
    identity = authority.issue("car-07", Role.VEHICLE, NOW, days=30)
    save_party(tmp_path / "car-07", authority, identity.certificate, identity.signing_key)
    return tmp_path / "car-07"


def modes(folder):
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


# --- a party ---


def test_a_vehicle_reads_who_it_is_and_whom_it_trusts(car, authority):
    party = load_party(car, NOW)
    assert (party.identity.name, party.role, party.sealing_key) == ("car-07", Role.VEHICLE, None)
    assert party.trust == authority.trust()
    member = party.trust.verify(party.identity.certificate, Role.VEHICLE, NOW)
    member.check_signature(party.identity.sign(b"convoy test/1"), b"convoy test/1")


@pytest.mark.parametrize("suite", SUITES)
def test_an_aggregator_opens_what_is_sealed_to_it(tmp_path, authority, suite):
    identity = authority.issue("depot", Role.AGGREGATOR, NOW)
    key = generate_sealing_key(suite, os.urandom)
    save_party(tmp_path / "depot", authority, identity.certificate, identity.signing_key, key)
    party = load_party(tmp_path / "depot", NOW)
    sealed = seal(suite, key.public_key, b"an update", info=b"convoy test/1")
    assert open_sealed(party.sealing_key, sealed, info=b"convoy test/1") == b"an update"


def test_only_the_owner_reads_keys(tmp_path, authority):
    umask = os.umask(0)  # the loosest: what is private must not depend on it
    try:
        create_fleet(tmp_path / "fleet", authority)
        identity = authority.issue("kerb-1", Role.HELPER, NOW)
        key = generate_sealing_key("x25519", os.urandom)
        save_party(tmp_path / "kerb-1", authority, identity.certificate, identity.signing_key, key)
    finally:
        os.umask(umask)
    public, private = 0o644, 0o600
    assert modes(tmp_path / "fleet") == {
        "ca.key": private,
        "ca.pem": public,
        "fleet.json": public,
        "revoked.crl": public,
    }
    assert modes(tmp_path / "kerb-1") == {
        "ca.pem": public,
        "identity.key": private,
        "identity.pem": public,
        "revoked.crl": public,
        "sealing.key": private,
    }
    assert modes(tmp_path) == {"fleet": 0o700, "kerb-1": 0o700}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_may_read_is_refused(car, mode):
    (car / "identity.key").chmod(mode)
    with pytest.raises(FleetFolderError, match=r"others may .* chmod 600 .*identity\.key"):
        load_party(car, NOW)


@pytest.mark.parametrize("name", ["identity.key", "identity.pem", "ca.pem", "revoked.crl"])
@pytest.mark.parametrize("content", [None, b"", b"rubbish", b"\xff\xfe"])
def test_a_missing_or_broken_file_is_named(car, name, content):
    path = car / name
    mode = path.stat().st_mode
    path.unlink()
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(FleetFolderError, match=f"{name}: ") as raised:
        load_party(car, NOW)
    assert raised.value.path == path
    assert isinstance(raised.value, UsageError)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "convoy sealing key/1",
        "convoy sealing key/1 x25519",
        "convoy sealing key/1 x25519 " + "0" * 62,
        "convoy sealing key/1 x25519 " + "g" * 64,
        "convoy sealing key/2 x25519 " + "0" * 64,
        "convoy sealing key/1 rot13 " + "0" * 64,
        "convoy sealing key/1 x25519 " + "0" * 64 + " more",
    ],
)
def test_a_broken_sealing_key_is_named_and_not_quoted(car, line):
    path = car / "sealing.key"
    path.write_text(line)
    path.chmod(0o600)
    with pytest.raises(FleetFolderError, match=r"sealing\.key: ") as raised:
        load_party(car, NOW)
    assert "0000" not in str(raised.value)
    assert "gggg" not in str(raised.value)


def test_files_of_different_parties_or_fleets_do_not_fit_together(car, authority):
    other = authority.issue("car-08", Role.VEHICLE, NOW)
    key_files.write_certificate(car / "identity.pem", other.certificate)
    with pytest.raises(FleetFolderError, match=r"identity\.pem: belongs to another key"):
        load_party(car, NOW)
    foreign = FleetAuthority.create(NOW)
    key_files.write_certificate(car / "ca.pem", foreign.certificate)
    with pytest.raises(FleetFolderError, match=r"revoked\.crl: .*not signed by the fleet's CA"):
        load_party(car, NOW)
    key_files.write_file(car / "revoked.crl", foreign.revocation_list)
    with pytest.raises(FleetFolderError, match=r"identity\.pem: .*not signed by the fleet's CA"):
        load_party(car, NOW)


def test_a_certificate_of_another_kind_of_ca_is_not_pinned(car):
    key = ec.derive_private_key(1, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7)
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    key_files.write_certificate(
        car / "ca.pem", builder.sign(key, SHA256()).public_bytes(Encoding.DER)
    )
    with pytest.raises(FleetFolderError, match=r"ca\.pem: not the certificate of a fleet's CA"):
        load_party(car, NOW)


def test_a_key_of_another_kind_is_not_an_identity(car):
    pem = ec.derive_private_key(1, ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    key_files.write_file(car / "identity.key", pem, private=True)
    with pytest.raises(FleetFolderError, match=r"identity\.key: not an Ed25519 key"):
        load_party(car, NOW)


def test_a_vehicle_whose_certificate_ended_says_so_itself(car):
    with pytest.raises(FleetFolderError, match=r"identity\.pem: car-07 is not trusted: .*expired"):
        load_party(car, NOW + timedelta(days=31))


def test_a_list_learned_from_peers_outlives_a_restart_and_is_held_when_too_old(car, authority):
    party = load_party(car, NOW)
    authority.issue("car-08", Role.VEHICLE, NOW)
    authority.revoke("car-08", NOW, list_days=1)
    save_revocations(car, party.trust.with_revocations(authority.revocation_list, NOW))
    late = NOW + timedelta(days=2)
    again = load_party(car, late)
    assert again.trust.revocations.number == 2
    assert authority.issued[-1].serial in again.trust.revocations.serials
    with pytest.raises(RevocationListError, match="list 1 is older than 2"):
        again.trust.with_revocations(party.trust.revocations.der, NOW)


def test_keys_are_never_overwritten(car, authority):
    before = (car / "identity.key").read_bytes()
    identity = authority.issue("car-08", Role.VEHICLE, NOW)
    with pytest.raises(FleetFolderError, match="never overwritten"):
        save_party(car, authority, identity.certificate, identity.signing_key)
    with pytest.raises(FleetFolderError, match="never overwritten"):
        create_fleet(car, authority)
    assert (car / "identity.key").read_bytes() == before


def test_a_file_half_written_by_a_crash_does_not_stand_in_the_way(tmp_path):
    (tmp_path / ".unfinished-a.key").write_bytes(b"half")
    key_files.write_file(tmp_path / "a.key", b"whole", private=True)
    assert (tmp_path / "a.key").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a.key"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FleetFolderError, match="file/a: Not a directory"):
        key_files.write_file(tmp_path / "file" / "a", b"")
    with pytest.raises(FleetFolderError, match="file: File exists"):
        key_files.make_new_folder(tmp_path / "file")


# --- the CA ---


@pytest.mark.parametrize("passphrase", [None, b"correct horse battery staple"])
def test_a_fleet_is_the_same_after_it_was_put_away(tmp_path, authority, passphrase):
    create_fleet(tmp_path / "fleet", authority, passphrase)
    authority.issue("car-07", Role.VEHICLE, NOW)
    authority.issue("depot", Role.AGGREGATOR, NOW, days=10)
    authority.revoke("car-07", NOW)
    save_fleet(tmp_path / "fleet", authority)

    again = load_fleet(tmp_path / "fleet", passphrase)
    assert again.issued == authority.issued
    assert again.trust() == authority.trust()
    again.revoke("depot", NOW)
    assert again.trust().revocations.number == 3
    assert {one.serial for one in again.issued} == again.trust().revocations.serials
    again.issue("depot", Role.AGGREGATOR, NOW)
    with pytest.raises(ValueError, match="depot has a certificate in force"):
        again.issue("depot", Role.AGGREGATOR, NOW)


def test_the_book_is_read_without_the_key(tmp_path, authority):
    authority.issue("car-07", Role.VEHICLE, NOW)
    create_fleet(tmp_path / "fleet", authority, b"correct horse battery staple")
    (tmp_path / "fleet" / "ca.key").unlink()  # in the safe
    book = load_book(tmp_path / "fleet")
    assert [one.name for one in book.issued] == ["car-07"]
    assert book.revocations.number == 1


@pytest.mark.parametrize(
    ("made_with", "opened_with", "what"),
    [
        (b"correct horse battery staple", None, "needs its passphrase: --passphrase-file"),
        (b"correct horse battery staple", b"correct horse battery stable", "wrong passphrase"),
        (None, b"correct horse battery staple", "has no passphrase"),
    ],
)
def test_a_passphrase_that_does_not_fit_is_said(tmp_path, authority, made_with, opened_with, what):
    create_fleet(tmp_path / "fleet", authority, made_with)
    with pytest.raises(FleetFolderError, match=rf"ca\.key: .*{what}"):
        load_fleet(tmp_path / "fleet", opened_with)


def test_the_key_of_another_ca_is_not_taken(tmp_path, authority):
    create_fleet(tmp_path / "fleet", authority)
    key_files.write_signing_key(tmp_path / "fleet" / "ca.key", Ed25519PrivateKey.generate())
    with pytest.raises(FleetFolderError, match=r"ca\.pem: belongs to another key"):
        load_fleet(tmp_path / "fleet")


@pytest.mark.parametrize(
    "book",
    [
        "",
        "[]",
        "{}",
        json.dumps({"version": 2, "certificates": []}),
        json.dumps({"version": 1}),
        json.dumps({"version": 1, "certificates": [{}]}),
        json.dumps({"version": 1, "certificates": ["car"]}),
        json.dumps(
            {
                "version": 1,
                "certificates": [
                    {"name": "a", "role": "driver", "serial": "1", "expires": "x", "revoked": None}
                ],
            }
        ),
    ],
)
def test_a_broken_book_is_named(tmp_path, authority, book):
    create_fleet(tmp_path / "fleet", authority)
    (tmp_path / "fleet" / "fleet.json").write_text(book)
    with pytest.raises(FleetFolderError, match=r"fleet\.json: "):
        load_book(tmp_path / "fleet")


def test_the_next_list_heals_a_crash_between_book_and_list(tmp_path, authority):
    folder = tmp_path / "fleet"
    authority.issue("car-07", Role.VEHICLE, NOW)
    create_fleet(folder, authority)
    before = (folder / "revoked.crl").read_bytes()
    authority.revoke("car-07", NOW)
    save_fleet(folder, authority)
    (folder / "revoked.crl").write_bytes(before)  # the crash

    again = load_fleet(folder)
    again.renew_list(NOW)
    assert again.trust().revocations.serials == {again.issued[0].serial}


def test_one_command_at_a_time_works_in_the_cas_folder(tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    with locked(tmp_path), pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back
    os.close(handle)


def test_a_folder_without_a_fleet_says_how_to_make_one(tmp_path):
    with (
        pytest.raises(FleetFolderError, match="no such folder; `convoy fleet init` makes one"),
        locked(tmp_path / "nowhere"),
    ):
        pass


@pytest.mark.parametrize(
    ("content", "passphrase"),
    [
        (b"correct horse battery staple\n", b"correct horse battery staple"),
        (b"correct horse battery staple\r\nsecond line", b"correct horse battery staple"),
        (b"too short\n", None),
        (b"\ncorrect horse battery staple", None),
        (b"", None),
    ],
)
def test_a_passphrase_is_the_first_line_and_long(tmp_path, content, passphrase):
    path = tmp_path / "passphrase.txt"
    path.write_bytes(content)
    path.chmod(0o600)
    if passphrase is None:
        with pytest.raises(FleetFolderError, match="a passphrase has at least 16 bytes"):
            key_files.read_passphrase(path)
    else:
        assert key_files.read_passphrase(path) == passphrase


# --- requests ---


def request_of(key, *, common_name="whoever"):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    algorithm = None if isinstance(key, Ed25519PrivateKey) else SHA256()
    request = x509.CertificateSigningRequestBuilder(name).sign(key, algorithm)
    return request.public_bytes(Encoding.PEM)


def test_a_vehicle_that_made_its_own_key_gets_a_certificate_for_it(tmp_path, authority):
    key = Ed25519PrivateKey.generate()
    (tmp_path / "car.csr").write_bytes(request_of(key))
    public_key = key_files.read_request(tmp_path / "car.csr")
    certificate = authority.certify("car-08", Role.VEHICLE, public_key, NOW)
    save_party(tmp_path / "car-08", authority, certificate)
    assert not (tmp_path / "car-08" / "identity.key").exists()

    key_files.write_signing_key(tmp_path / "car-08" / "identity.key", key)
    assert load_party(tmp_path / "car-08", NOW).identity.name == "car-08"  # not "whoever"


def forged():
    """A request for somebody else's key, which its sender does not have."""
    pem = request_of(Ed25519PrivateKey.generate())
    request = x509.load_pem_x509_csr(pem)
    der = request.public_bytes(Encoding.DER)
    public_key = request.public_key().public_bytes_raw()
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    return x509.load_der_x509_csr(der.replace(public_key, other)).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not a certificate signing request"),
        (b"rubbish", "not a certificate signing request"),
        (request_of(ec.derive_private_key(1, ec.SECP256R1())), "not signed by the Ed25519 key"),
        (forged(), "not signed by the Ed25519 key"),
    ],
)
def test_a_request_that_proves_no_key_is_refused(tmp_path, content, what):
    (tmp_path / "car.csr").write_bytes(content)
    with pytest.raises(FleetFolderError, match=rf"car\.csr: {what}"):
        key_files.read_request(tmp_path / "car.csr")
