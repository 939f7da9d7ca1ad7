"""How a device becomes a member: its keys, what it checks, and being cut off."""

import os
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
)
from small_enrolment import NOW, make_office, places_in

from convoy_edge_client.agent import joining
from convoy_edge_client.agent.agent_config import load_agent_config
from convoy_edge_client.agent.joining import Joined, first_agent_toml, join
from convoy_edge_client.errors import EnrolmentError, ServerUnreachableError, VehicleConfigError
from convoy_privacy import key_files
from convoy_privacy.certificates import Role
from convoy_privacy.errors import FleetFolderError
from convoy_privacy.fleet_store import load_fleet
from convoy_privacy.party import load_party
from convoy_protos.v1.enrolment_pb2 import JoinToken
from convoy_server.service.enrolment_token_office import new_token

UNREACHABLE = ServerUnreachableError("nobody answers")


@pytest.fixture
def office(tmp_path):
    return make_office(tmp_path, online=True)


@pytest.fixture
def places(tmp_path):
    (tmp_path / "device").mkdir()
    return places_in(tmp_path / "device")


def asks(office):
    """The service without its network, started anew for each call."""
    return lambda request: office.desk().join(request, NOW)


def test_a_device_has_all_that_it_needs_and_its_keys_have_never_left_it(office, places):
    sent = []

    def ask(request):
        sent.append(request.SerializeToString())
        return asks(office)(request)

    assert join(office.token(), places, ask, NOW) is Joined.NOW
    party = load_party(places.identity, NOW)
    assert (party.identity.name, party.role, party.sealing_key) == ("car-07", Role.VEHICLE, None)
    assert {path.name: path.stat().st_mode & 0o777 for path in places.identity.iterdir()} == {
        "identity.key": 0o600,
        "identity.pem": 0o644,
        "ca.pem": 0o644,
        "revoked.crl": 0o644,
    }
    assert places.node_key.stat().st_mode & 0o777 == 0o600
    assert places.node_key.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    tls_ca = key_files.read_certificate(places.root_certificates)
    assert tls_ca == key_files.read_certificate(office.fleet / "tls-ca.pem")
    assert party.identity.signing_key.private_bytes_raw() not in b"".join(sent)


def test_a_helper_has_a_sealing_key_too(office, places):
    join(office.token("kerb-1", Role.HELPER), places, asks(office), NOW)
    party = load_party(places.identity, NOW)
    assert (party.role, party.sealing_key.suite) == (Role.HELPER, "x25519")


def test_a_device_waits_until_somebody_has_signed(tmp_path, places):
    office, pauses, told = make_office(tmp_path / "offline"), [], []

    def sleep(pause_s):
        pauses.append(pause_s)
        if len(pauses) == 12:
            office.sign_all()

    outcome = join(
        office.token(), places, asks(office), NOW, sleep=sleep, on_pending=lambda: told.append(1)
    )
    assert (outcome, told) == (Joined.NOW, [1])
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (2.0, 30.0)


def test_who_does_not_wait_goes_on_later_with_the_same_keys(tmp_path, places):
    office = make_office(tmp_path / "offline")
    token = office.token()
    assert join(token, places, asks(office), NOW, wait=False) is Joined.PENDING
    assert not places.identity.exists()
    office.sign_all()
    assert join(token, places, asks(office), NOW, wait=False) is Joined.NOW
    assert join(token, places, asks(office), NOW) is Joined.BEFORE


def test_a_server_that_goes_away_while_a_device_waits_ends_nothing(tmp_path, places):
    office = make_office(tmp_path / "offline")
    replies = iter(["pending", UNREACHABLE, UNREACHABLE, "signed"])

    def ask(request):
        step = next(replies)
        if step is UNREACHABLE:
            raise step
        if step == "signed":
            office.sign_all()
        return asks(office)(request)

    assert join(office.token(), places, ask, NOW, sleep=lambda _: None) is Joined.NOW


def test_a_server_that_cannot_be_reached_is_said_at_once(office, places):
    def ask(_):
        raise UNREACHABLE

    with pytest.raises(ServerUnreachableError):
        join(office.token(), places, ask, NOW)


STEPS = [
    (joining.key_files, "make_new_folder"),
    (joining.key_files, "write_file"),
    (joining.key_files, "write_signing_key"),
    (joining.key_files, "write_certificate"),
    (joining.Path, "rename"),
    (joining.Path, "unlink"),
]


class PowerCutError(Exception):
    """The device is off from here on."""


@pytest.mark.parametrize("step", STEPS, ids=[name for _, name in STEPS])
@pytest.mark.parametrize("call", [1, 2, 3, 4])
@pytest.mark.parametrize("done", [True, False], ids=["after", "before"])
def test_cut_off_anywhere_the_same_token_goes_on(office, places, monkeypatch, *, step, call, done):
    place, name = step
    token, real, calls = office.token(), getattr(place, name), []

    def cut(*args, **kwargs):
        calls.append(1)
        if len(calls) != call:
            return real(*args, **kwargs)
        if done:
            real(*args, **kwargs)
        raise PowerCutError

    ask = asks(office)
    with monkeypatch.context() as patched:
        patched.setattr(place, name, cut)

        def ask_with_power(request):
            # The server has its own power.
            patched.setattr(place, name, real)
            try:
                return ask(request)
            finally:
                patched.setattr(place, name, cut)

        try:
            join(token, places, ask_with_power, NOW)
        except PowerCutError:
            assert len(calls) == call
    assert join(token, places, ask, NOW) in {Joined.NOW, Joined.BEFORE}
    assert load_party(places.identity, NOW).identity.name == "car-07"
    bound = office.store.enrolment(token.token_id).keys
    assert (
        key_files.read_signing_key(places.identity / "identity.key").public_key().public_bytes_raw()
        == bound.identity_key
    )
    assert public_half(places.node_key) == bound.node_key


def public_half(path):
    key = load_ssh_private_key(path.read_bytes(), None)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def test_another_token_starts_with_other_keys(tmp_path, places):
    office = make_office(tmp_path / "offline")
    first = office.token()
    join(first, places, asks(office), NOW, wait=False)
    office.sign_all()
    office.revoke("car-07")
    (office.depot / "revoked.crl").write_bytes((office.fleet / "revoked.crl").read_bytes())
    second = office.token()
    join(second, places, asks(office), NOW, wait=False)
    keys = [office.store.enrolment(token.token_id).keys for token in (first, second)]
    assert keys[0].identity_key != keys[1].identity_key
    assert keys[0].node_key != keys[1].node_key


@pytest.mark.parametrize(
    ("field", "whose", "says"),
    [
        ("certificate", "car-08", "name or key"),
        ("certificate", "same name", "name or key"),
        ("certificate", "foreign", "not signed by"),
        ("certificate", "rubbish", "not of the token's"),
        ("ca_certificate", "foreign CA", "another fleet"),
        ("ca_certificate", "rubbish", "not of the token's"),
        ("revocations", "rubbish", "not of the token's"),
        ("revocations", "foreign list", "not signed by"),
    ],
)
def test_what_is_issued_must_fit_the_token(office, tmp_path, field, whose, says):
    (tmp_path / "device").mkdir()
    places = places_in(tmp_path / "device")
    foreign = make_office(tmp_path / "foreign", online=True)
    others = {
        "foreign": issued_to(foreign, "car-07", tmp_path / "a"),
        "car-08": issued_to(office, "car-08", tmp_path / "b"),
        "foreign CA": key_files.read_certificate(foreign.fleet / "ca.pem"),
        "rubbish": b"rubbish",
        "foreign list": (foreign.fleet / "revoked.crl").read_bytes(),
    }
    token = office.token()
    others["same name"] = certificate_for_another_key(office)

    def ask(request):
        reply = office.desk().join(request, NOW)
        setattr(reply.issued, field, others[whose])
        return reply

    with pytest.raises(EnrolmentError, match=says):
        join(token, places, ask, NOW)
    assert not places.identity.exists()
    assert join(token, places, asks(office), NOW) is Joined.NOW  # nothing is spoilt for ever


def issued_to(office, name, folder):
    folder.mkdir()
    join(office.token(name), places_in(folder), asks(office), NOW)
    return key_files.read_certificate(folder / "identity" / "identity.pem")


def certificate_for_another_key(office):
    """By the right CA, of the right name, for a key that is not the device's."""
    return load_fleet(office.fleet).issue("car-07", Role.VEHICLE, NOW).certificate


def test_a_clock_that_runs_far_behind_is_named(office, places):
    with pytest.raises(EnrolmentError, match="clock is wrong"):
        join(office.token(), places, asks(office), NOW - timedelta(days=400))


def test_a_member_of_another_name_or_fleet_is_asked_to_move_its_folder(office, tmp_path, places):
    join(office.token(), places, asks(office), NOW)
    with pytest.raises(VehicleConfigError, match="is car-07 of this fleet; to join as car-08"):
        join(office.token("car-08"), places, asks(office), NOW)
    foreign = make_office(tmp_path / "foreign", online=True)
    with pytest.raises(VehicleConfigError, match="of another fleet"):
        join(foreign.token(), places, asks(foreign), NOW)


def test_a_member_whose_certificate_is_over_joins_anew_and_keeps_the_old_folder(office, places):
    join(office.token(), places, asks(office), NOW)
    late = NOW + timedelta(days=31)
    with pytest.raises(FleetFolderError):
        load_party(places.identity, late)
    token = fresh_token(office, late)
    assert (
        join(token, places, lambda request: office.desk().join(request, late), late) is Joined.NOW
    )
    assert load_party(places.identity, late).identity.name == "car-07"
    assert len(list(places.identity.parent.glob("identity.before-*"))) == 1


def fresh_token(office, now):
    return new_token(office.config, "car-07", Role.VEHICLE, now, valid_hours=24, random=os.urandom)


@pytest.mark.parametrize("role", ["vehicle", "helper"])
def test_a_first_agent_toml_is_one_that_the_agent_reads(tmp_path, role):
    token = JoinToken(
        fleet_address="convoy.example.org:9091",
        services_address="[::1]:9092",
        name='car "7" \\ é',
        role=role,
    )
    path = tmp_path / "agent.toml"
    path.write_text(first_agent_toml(token, ["/data/tubs", "more"]))
    config = load_agent_config(path)
    assert config.vehicle.vehicle_id == token.name
    identity = str(tmp_path / "state" / "identity")
    trains = (("/data/tubs", str(tmp_path / "more")), "")
    assert (config.vehicle.recordings, config.vehicle.helper_identity) == (
        trains if role == "vehicle" else ((), identity)
    )
    assert config.server.address == token.fleet_address
    assert config.server.services == token.services_address
    assert config.role == ("vehicle" if role == "vehicle" else "roadside")
    assert config.identity_path == tmp_path / "state" / "identity"
