"""How a device stays in the fleet: the next certificate in time, the newest list of revocations."""

from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from small_enrolment import NOW, agent_config, make_office, places_in

from convoy_edge_client.agent import renewal
from convoy_edge_client.agent.joining import join
from convoy_edge_client.agent.renewal import Renewal, is_due, renew_if_due
from convoy_edge_client.errors import EnrolmentError, ServerUnreachableError
from convoy_privacy import key_files
from convoy_privacy.certificates import Role
from convoy_privacy.errors import FleetFolderError
from convoy_privacy.fleet_store import load_fleet
from convoy_privacy.party import load_party
from convoy_protos.v1.enrolment_pb2 import EnrolmentReply, Issued
from convoy_server.errors import EnrolmentRefusedError

LATE = NOW + timedelta(days=21)


@pytest.fixture
def office(tmp_path):
    return make_office(tmp_path, online=True)


@pytest.fixture
def device(tmp_path, office):
    """The configuration of a device that joined, for 30 days."""
    folder = tmp_path / "device"
    folder.mkdir()
    join(office.token(), places_in(folder), lambda request: office.desk().join(request, NOW), NOW)
    return agent_config(folder, "127.0.0.1:9092")


class Client:
    """The enrolment service without its network."""

    def __init__(self, office, now, spoil=lambda reply: reply):
        self.office, self.now, self.spoil = office, now, spoil

    def renew(self, request):
        """As EnrolmentClient does it."""
        try:
            return self.spoil(self.office.desk().renew(request, self.now))
        except EnrolmentRefusedError as error:
            raise EnrolmentError(str(error)) from error

    def revocations(self):
        """As EnrolmentClient does it."""
        return self.office.desk().revocations().revocations


def connecting(client):
    @contextmanager
    def connect(_address, _tls_ca):
        yield client

    return connect


def certificate_of(device):
    return (device.identity_path / "identity.pem").read_bytes()


@pytest.mark.parametrize(("day", "due"), [(0, False), (19, False), (21, True), (29, True)])
def test_a_certificate_is_due_in_the_last_third_of_its_life(day, due):
    assert is_due(NOW, NOW + timedelta(days=30), NOW + timedelta(days=day)) is due


def test_before_that_nothing_is_asked_for(office, device):
    before = certificate_of(device)
    assert renew_if_due(device, NOW, connecting(Client(office, NOW))) is Renewal.NOT_DUE
    assert certificate_of(device) == before
    assert office.store.renewals() == []


def test_a_device_gets_its_next_certificate_and_keeps_its_key(office, device):
    before = load_party(device.identity_path, NOW).identity
    assert renew_if_due(device, LATE, connecting(Client(office, LATE))) is Renewal.RENEWED
    # The old one has ended by then.
    after = load_party(device.identity_path, NOW + timedelta(days=45)).identity
    assert after.certificate != before.certificate
    assert after.signing_key.private_bytes_raw() == before.signing_key.private_bytes_raw()
    assert renew_if_due(device, LATE, connecting(Client(office, LATE))) is Renewal.NOT_DUE


def test_with_the_ca_elsewhere_it_comes_later(office, device):
    enrolment = replace(office.config.enrolment, authority="")
    office.config = replace(office.config, enrolment=enrolment)
    connect = connecting(Client(office, LATE))
    assert renew_if_due(device, LATE, connect) is Renewal.PENDING
    assert renew_if_due(device, LATE, connect) is Renewal.PENDING
    office.sign_all(LATE)
    assert renew_if_due(device, LATE, connect) is Renewal.RENEWED


def test_the_revoked_get_none_and_learn_why(office, device):
    office.revoke("car-07", LATE)
    with pytest.raises(EnrolmentError, match="revoked; to come back, join with a new token"):
        renew_if_due(device, LATE, connecting(Client(office, LATE)))


def test_the_newest_list_comes_along_and_never_an_older_one(office, device):
    old = (office.fleet / "revoked.crl").read_bytes()
    office.revoke("depot")
    renew_if_due(device, NOW, connecting(Client(office, NOW)))
    new = (device.identity_path / "revoked.crl").read_bytes()
    assert new == (office.fleet / "revoked.crl").read_bytes() != old

    client = Client(office, NOW)
    for bad in (old, b"", b"rubbish"):
        client.revocations = lambda bad=bad: bad
        renew_if_due(device, NOW, connecting(client))
        assert (device.identity_path / "revoked.crl").read_bytes() == new


@pytest.mark.parametrize("whose", ["other name", "other key", "rubbish", "none"])
def test_what_is_issued_must_be_the_next_one_of_this_device(office, device, whose):
    authority = load_fleet(office.fleet)
    key = load_party(device.identity_path, NOW).identity.signing_key.public_key()
    certificate = {
        "other name": lambda: authority.certify("car-08", Role.VEHICLE, key, NOW),
        "other key": lambda: authority.issue("car-07", Role.VEHICLE, NOW, renew=True).certificate,
        "rubbish": lambda: b"rubbish",
        "none": lambda: b"",
    }[whose]()
    before = certificate_of(device)
    reply = EnrolmentReply(issued=Issued(certificate=certificate))
    client = Client(office, LATE, spoil=lambda _: reply)
    with pytest.raises(EnrolmentError):
        renew_if_due(device, LATE, connecting(client))
    assert certificate_of(device) == before


def test_cut_off_before_it_is_written_the_next_call_gets_the_same_certificate(
    office, device, monkeypatch
):
    connect = connecting(Client(office, LATE))
    before = certificate_of(device)
    with monkeypatch.context() as patched:
        patched.setattr(renewal.key_files, "write_certificate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            renew_if_due(device, LATE, connect)
    assert certificate_of(device) == before
    assert renew_if_due(device, LATE, connect) is Renewal.RENEWED
    (renewed,) = office.store.renewals()
    assert key_files.read_certificate(device.identity_path / "identity.pem") == renewed.certificate


def test_a_device_without_an_enrolment_service_asks_nobody(device):
    def nobody(*_):
        raise AssertionError

    alone = agent_config(device.state_path, "")
    assert renew_if_due(alone, LATE, nobody) is Renewal.NOT_DUE


def test_a_certificate_that_has_ended_is_said(office, device):
    with pytest.raises(FleetFolderError, match="expired"):
        renew_if_due(device, NOW + timedelta(days=31), connecting(Client(office, LATE)))


def test_a_service_that_does_not_answer_changes_nothing(device):
    before = certificate_of(device)

    class Silent:
        def revocations(self):
            raise ServerUnreachableError("nobody answers")

    with pytest.raises(ServerUnreachableError):
        renew_if_due(device, LATE, connecting(Silent()))
    assert certificate_of(device) == before
