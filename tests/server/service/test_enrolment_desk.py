"""A server that enrols, from token to certificate, with restarts, another CA's machine and revocations."""

import shutil
from dataclasses import replace
from datetime import timedelta

import pytest
from small_enrolment import NOW, Device, Nodes, make_office

from convoy_privacy import key_files
from convoy_privacy.certificates import Role, certified
from convoy_privacy.errors import FleetFolderError
from convoy_privacy.fleet_store import load_book, load_fleet, save_fleet
from convoy_privacy.party import load_party
from convoy_protos.enrolment_token import renewal_bytes
from convoy_protos.errors import ConvoyError, UsageError
from convoy_protos.v1.enrolment_pb2 import RenewRequest
from convoy_server.errors import EnrolmentRefusedError, Refusal
from convoy_server.service import enrolment_signing
from convoy_server.service.enrolment_book import Node
from convoy_server.service.enrolment_signing import sign, waiting
from convoy_server.service.enrolment_store import EnrolmentStore

LATE = NOW + timedelta(days=20)


@pytest.fixture
def office(tmp_path):
    return make_office(tmp_path)


@pytest.fixture
def online(tmp_path):
    return make_office(tmp_path, online=True)


def joined(office, device, token):
    """The certificate of a device that has one."""
    return office.desk().join(device.request(token), NOW).issued.certificate


def renewal(device, certificate):
    signature = device.identity_key.sign(renewal_bytes(certificate))
    return RenewRequest(certificate=certificate, signature=signature)


def in_book(office, name):
    return [one for one in load_book(office.fleet).issued if one.name == name]


# --- joining ---


def test_with_the_ca_on_the_server_a_device_joins_at_once(online):
    device, token = Device(), online.token()
    reply = online.desk().join(device.request(token), NOW)
    issued = reply.issued
    found = certified(token.ca_public_key, issued.certificate)
    assert (found.member.name, found.member.role) == ("car-07", Role.VEHICLE)
    assert found.member.public_key == device.identity_key.public_key()
    assert issued.ca_certificate == key_files.read_certificate(online.fleet / "ca.pem")
    assert issued.revocations == (online.fleet / "revoked.crl").read_bytes()


def test_with_the_ca_elsewhere_a_device_waits(office):
    device, token = Device(), office.token()
    assert office.desk().join(device.request(token), NOW).HasField("pending")
    assert office.desk().join(device.request(token), NOW).HasField("pending")
    (outcome,) = office.sign_all()
    assert outcome.refusal == ""
    assert outcome.what.startswith("vehicle car-07, new, key ")
    assert joined(office, device, token)


def test_what_waits_can_be_signed_on_a_copy_and_copied_back(office, tmp_path):
    device, token = Device(), office.token()
    office.desk().join(device.request(token), NOW)
    copy = EnrolmentStore(shutil.copytree(office.store.folder, tmp_path / "stick"))
    sign(copy, office.fleet, waiting(copy), NOW, days=30)
    shutil.copytree(copy.folder, office.store.folder, dirs_exist_ok=True)
    assert joined(office, device, token)


@pytest.mark.parametrize("signed_elsewhere", [True, False])
def test_the_same_request_gets_the_same_certificate_also_after_restarts(tmp_path, signed_elsewhere):
    office = make_office(tmp_path, online=not signed_elsewhere)
    device, token = Device(), office.token()
    office.desk().join(device.request(token), NOW)
    if signed_elsewhere:
        office.sign_all()
        office.sign_all()
    certificates = {joined(office, device, token) for _ in range(3)}
    assert len(certificates) == 1
    assert len(in_book(office, "car-07")) == 1


def test_the_folder_holds_no_secret_and_only_its_owner_reads_it(online):
    device, token = Device(), online.token()
    online.desk().join(device.request(token), NOW)
    for path in online.store.folder.rglob("*"):
        mode = path.stat().st_mode & 0o777
        assert mode in ({0o700} if path.is_dir() else {0o600, 0o644}), path
        if path.is_file():
            assert (mode == 0o600) == (path.suffix == ".json")
            assert token.secret not in path.read_bytes()
            assert token.secret.hex().encode() not in path.read_bytes()


def test_a_helper_gets_the_role_of_its_token(online):
    device, token = Device(), online.token("kerb-1", Role.HELPER)
    found = certified(token.ca_public_key, joined(online, device, token))
    assert found.member.role is Role.HELPER


def test_a_newer_token_of_a_name_takes_the_place_of_an_unused_one(office):
    device, first, second = Device(), office.token(), office.token()
    with pytest.raises(EnrolmentRefusedError, match="no such token"):
        office.desk().join(device.request(first), NOW)
    assert office.desk().join(device.request(second), NOW).HasField("pending")


def test_no_token_for_a_name_that_is_taken(online):
    online.desk().join(Device().request(online.token()), NOW)
    for name in ("car-07", "depot"):  # enrolled, added by hand
        with pytest.raises(UsageError, match="in the fleet already"):
            online.token(name)


def test_a_name_that_the_ca_has_given_away_is_refused_when_it_signs_and_said_to_the_device(office):
    device, token = Device(), office.token("depot")
    office.desk().join(device.request(token), NOW)
    (outcome,) = office.sign_all()
    assert "depot has a certificate in force" in outcome.refusal
    with pytest.raises(EnrolmentRefusedError, match="depot has a certificate in force") as raised:
        office.desk().join(device.request(token), NOW)
    assert raised.value.refusal is Refusal.NOT_SIGNED
    office.revoke("depot")
    office.sign_all()  # is tried again
    assert joined(office, device, token)


def test_a_token_id_of_another_length_reaches_no_file(office):
    for token_id in (b"", b"../../..", bytes(9), b"\xff" * 4):
        request = Device().request(office.token())
        request.token_id = token_id
        with pytest.raises(EnrolmentRefusedError, match="no such token"):
            office.desk().join(request, NOW)


@pytest.mark.parametrize("step", ["stage", "save_fleet", "issue"])
@pytest.mark.parametrize("done", [True, False], ids=["after", "before"])
def test_cut_off_at_any_step_of_signing_one_certificate_is_given_out_and_is_in_the_book(
    office, monkeypatch, step, done
):
    device, token = Device(), office.token()
    office.desk().join(device.request(token), NOW)
    place = enrolment_signing.fleet_store if step == "save_fleet" else EnrolmentStore
    real = getattr(place, step)

    class PowerCutError(Exception):
        pass

    def cut(*args):
        if done:
            real(*args)
        raise PowerCutError

    with monkeypatch.context() as patched:
        patched.setattr(place, step, cut)
        with pytest.raises(PowerCutError):
            office.sign_all()
    office.sign_all()
    certificate = joined(office, device, token)
    serial = certified(token.ca_public_key, certificate).member.serial
    assert [one.serial for one in in_book(office, "car-07")] == [serial]


def test_a_broken_file_is_named(office):
    token = office.token()
    (office.store.folder / "tokens" / token.token_id.hex() / "token.json").write_text("{}")
    with pytest.raises(UsageError, match=f"{token.token_id.hex()}: not what an enrolment"):
        office.desk().join(Device().request(token), NOW)


# --- renewal ---


def test_a_member_is_renewed_under_the_same_key(online):
    device, token = Device(), online.token()
    first = joined(online, device, token)
    replies = [online.desk().renew(renewal(device, first), LATE) for _ in range(2)]
    second = replies[0].issued.certificate
    assert replies[1].issued.certificate == second != first
    found = certified(token.ca_public_key, second)
    assert found.member.public_key == device.identity_key.public_key()
    assert found.not_after > certified(token.ca_public_key, first).not_after


def test_a_renewal_waits_for_a_ca_elsewhere_which_checks_it_by_itself(office):
    device, token = Device(), office.token()
    office.desk().join(device.request(token), NOW)
    office.sign_all()
    first = joined(office, device, token)
    assert office.desk().renew(renewal(device, first), LATE).HasField("pending")
    office.revoke("car-07", LATE)  # in the CA's book; the server does not know yet
    (outcome,) = office.sign_all(LATE)
    assert "revoked" in outcome.refusal
    with pytest.raises(EnrolmentRefusedError, match="revoked"):
        office.desk().renew(renewal(device, first), LATE)


def test_a_server_cannot_make_the_ca_renew_for_a_key_that_did_not_ask(office):
    device, token = Device(), office.token()
    office.desk().join(device.request(token), NOW)
    office.sign_all()
    first = joined(office, device, token)
    forged = RenewRequest(certificate=first, signature=bytes(64))
    office.store.add_renewal(certified(token.ca_public_key, first).member.serial, forged)
    (outcome,) = office.sign_all(LATE)
    assert "not car-07's over this message" in outcome.refusal
    assert len(in_book(office, "car-07")) == 1


def test_the_revoked_are_not_renewed(online):
    device = Device()
    first = joined(online, device, online.token())
    online.revoke("car-07", LATE)
    with pytest.raises(EnrolmentRefusedError, match="revoked"):
        online.desk().renew(renewal(device, first), LATE)


# --- what is tended ---


def test_flower_learns_of_a_member_once_it_can_be_asked(online):
    device, token = Device(), online.token()
    online.nodes.down = True
    joined(online, device, token)
    with pytest.raises(ConvoyError, match="not up"):
        online.desk().tend(NOW)
    assert online.store.enrolment(token.token_id).node is Node.UNKNOWN
    online.nodes.down = False
    online.desk().tend(NOW)
    assert list(online.nodes.known.values()) == ["car-07"]
    online.nodes.known.clear()
    online.desk().tend(NOW)
    assert online.nodes.known == {}  # it is told once


def test_one_node_that_flower_refuses_keeps_no_other_from_it(online):
    class Picky(Nodes):
        def register(self, node_key, name):
            if name == "car-01":
                raise UsageError("not this one")
            super().register(node_key, name)

    online.nodes = Picky()
    for name in ("car-01", "car-02"):
        joined(online, Device(), online.token(name))
    with pytest.raises(ConvoyError, match="not this one"):
        online.desk().tend(NOW)
    assert list(online.nodes.known.values()) == ["car-02"]


def test_who_is_revoked_is_out_of_flower_and_the_list_is_with_the_rounds(online):
    device, other = Device(), Device()
    first = joined(online, device, online.token())
    joined(online, other, online.token("car-08"))
    online.desk().tend(NOW)
    online.desk().renew(renewal(device, first), LATE)
    online.revoke("car-07", NOW + timedelta(days=40))  # its first certificate is over by then
    online.desk().tend(NOW + timedelta(days=40))
    assert list(online.nodes.known.values()) == ["car-08"]
    assert (online.depot / "revoked.crl").read_bytes() == (
        online.fleet / "revoked.crl"
    ).read_bytes()
    assert load_party(online.depot, NOW).trust.revocations.number == 2


def test_a_waiting_device_is_signed_when_the_ca_comes_to_the_server(tmp_path):
    office = make_office(tmp_path)
    device, token = Device(), office.token()
    office.desk().join(device.request(token), NOW)
    enrolment = replace(office.config.enrolment, authority=str(office.fleet))
    office.config = replace(office.config, enrolment=enrolment)
    office.desk().tend(NOW)
    assert list(office.nodes.known.values()) == ["car-07"]


def test_the_ca_of_another_fleet_signs_nothing(office, tmp_path):
    other = make_office(tmp_path / "other")
    office.desk().join(Device().request(office.token()), NOW)
    with pytest.raises(FleetFolderError, match="another fleet"):
        sign(office.store, other.fleet, waiting(office.store), NOW, days=30)
    assert in_book(other, "car-07") == []


def test_the_newest_list_is_told(online):
    before = online.desk().revocations().revocations
    online.revoke("depot")
    assert online.desk().revocations().revocations != before


def test_two_signers_at_once_sign_once(office):
    device, token = Device(), office.token()
    office.desk().join(device.request(token), NOW)
    stale = waiting(office.store)
    office.sign_all()
    assert sign(office.store, office.fleet, stale, NOW, days=30) == []
    assert len(in_book(office, "car-07")) == 1


def test_the_book_of_the_ca_can_be_written_by_others_meanwhile(online):
    joined(online, Device(), online.token())
    authority = load_fleet(online.fleet)
    authority.issue("car-99", Role.VEHICLE, NOW)
    save_fleet(online.fleet, authority)
    joined(online, Device(), online.token("car-08"))
    assert [one.name for one in load_book(online.fleet).issued] == [
        "depot",
        "car-07",
        "car-99",
        "car-08",
    ]
