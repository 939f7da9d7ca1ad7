"""Enrolment over the network on 127.0.0.1: gRPC, TLS, a man in the middle, abuse, a process that dies."""

import io
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from small_enrolment import NOW, Device, agent_config, make_office, places_in

from convoy_cli.main import DONE, FAILED, WRONG_USAGE, run
from convoy_cli.verbs import installed_verbs
from convoy_edge_client.agent.enrolment_client import enrolment_client
from convoy_edge_client.agent.joining import Joined, join
from convoy_edge_client.agent.renewal import Renewal, renew_if_due
from convoy_edge_client.errors import EnrolmentError, ServerUnreachableError
from convoy_privacy.certificates import Role
from convoy_privacy.party import load_party
from convoy_privacy.tls_authority import TlsAuthority
from convoy_privacy.tls_files import save_server
from convoy_protos.enrolment_token import read_token
from convoy_protos.v1.enrolment_pb2 import JoinRequest
from convoy_server.service.enrolment import MAX_REQUEST_BYTES

pytestmark = pytest.mark.slow


@pytest.fixture
def office(tmp_path):
    return make_office(tmp_path, online=True)


@pytest.fixture
def places(tmp_path):
    (tmp_path / "device").mkdir()
    return places_in(tmp_path / "device")


def test_a_device_joins_and_is_renewed_over_the_network(office, places):
    token = office.token()
    with office.serving() as address:
        with enrolment_client(address, token.tls_ca) as client:
            assert join(token, places, client.join, NOW) is Joined.NOW
        config = agent_config(places.identity.parent, address)
        assert renew_if_due(config, NOW) is Renewal.NOT_DUE
        # The server's clock is today's: the certificate must be due by it as well.
        late = NOW + timedelta(days=25)
        with pytest.raises(EnrolmentError, match="more than half of its life left"):
            renew_if_due(config, late)


def test_a_man_in_the_middle_with_another_ca_learns_nothing(office, tmp_path, places):
    token = office.token()
    evil = TlsAuthority.create(NOW)
    save_server(tmp_path / "evil", evil, evil.issue(("127.0.0.1",), NOW))
    door = office.config.fleet_door
    fake = replace(
        door,
        certificate=str(tmp_path / "evil" / "server.pem"),
        key=str(tmp_path / "evil" / "server.key"),
    )
    office.config = replace(office.config, fleet_door=fake)
    with (
        office.serving() as address,
        enrolment_client(address, token.tls_ca) as client,
        pytest.raises(EnrolmentError, match="not the server of this fleet"),
    ):
        join(token, places, client.join, NOW)
    assert not places.identity.exists()
    assert office.store.enrolment(token.token_id).keys is None


def test_a_server_under_another_host_than_its_certificate_is_refused(office, places):
    token = office.token()
    with office.serving() as address:
        other = address.replace("127.0.0.1", "localhost")
        with (
            enrolment_client(other, token.tls_ca) as client,
            pytest.raises(EnrolmentError),
        ):
            join(token, places, client.join, NOW)


def test_nobody_there_is_said(office, places):
    with (
        enrolment_client(f"127.0.0.1:{free_port()}", office.token().tls_ca) as client,
        pytest.raises(ServerUnreachableError, match="cannot be asked now"),
    ):
        join(office.token(), places, client.join, NOW)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service that many bad calls go to, and a raw channel to it."""
    office = make_office(tmp_path_factory.mktemp("service"), online=True)
    token = office.token()
    pem = x509.load_der_x509_certificate(token.tls_ca).public_bytes(Encoding.PEM)
    with (
        office.serving() as address,
        grpc.secure_channel(address, grpc.ssl_channel_credentials(pem)) as channel,
    ):
        yield office, token, channel


def call(channel, method, data):
    """The status of a call with any bytes, and what it says."""
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/convoy.v1.Enrolment/{method}")(data, timeout=10)
    return raised.value.code(), raised.value.details()


REFUSALS = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED}


@given(method=st.sampled_from(["Join", "Renew"]), data=st.binary(max_size=400))
def test_garbage_is_refused_and_the_service_goes_on(service, method, data):
    _, _, channel = service
    code, _ = call(channel, method, data)
    assert code in REFUSALS


def test_an_oversized_request_is_not_read(service):
    _, token, channel = service
    request = Device().request(token, lambda one: setattr(one, "name", "x" * MAX_REQUEST_BYTES))
    code, _ = call(channel, "Join", request.SerializeToString())
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: setattr(r, "secret", bytes(16)), "no such token"),
        (lambda r: setattr(r, "token_id", bytes(8)), "no such token"),
        (lambda r: setattr(r, "name", "car-08"), "this token is for car-07"),
        (lambda r: setattr(r, "signature", bytes(64)), "not signed by its own"),
    ],
)
def test_a_refusal_says_why(service, change, says):
    _, token, channel = service
    request = Device().request(token, change)
    code, details = call(channel, "Join", request.SerializeToString())
    assert code in REFUSALS
    assert says in details
    assert token.secret.hex() not in details


def test_a_broken_server_says_nothing_of_its_files(office, places):
    token = office.token()
    (office.depot / "ca.pem").unlink()
    with (
        office.serving() as address,
        enrolment_client(address, token.tls_ca) as client,
        pytest.raises(ServerUnreachableError, match="see its log") as raised,
    ):
        join(token, places, client.join, NOW)
    assert str(office.folder) not in str(raised.value)


def test_who_calls_too_often_waits(office):
    token = office.token()
    with (
        office.serving(calls_per_minute=3) as address,
        enrolment_client(address, token.tls_ca) as client,
    ):
        for _ in range(3):
            client.revocations()
        with pytest.raises(ServerUnreachableError, match="too many calls"):
            client.join(JoinRequest())


# --- the verbs and the process ---


class Service:
    """`python -m convoy_server.service.enrolment server.toml` as a process."""

    def __init__(self, folder):
        self.command = [sys.executable, "-m", "convoy_server.service.enrolment", "server.toml"]
        self.folder = folder
        self.start()

    def start(self):
        """Also again."""
        with (self.folder / "service.log").open("a") as log:
            self.process = subprocess.Popen(self.command, cwd=self.folder, stderr=log)

    def kill(self):
        """As a power cut does."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self):
        """As a supervisor does; the exit code."""
        self.process.terminate()
        return self.process.wait(timeout=60)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """A folder with server.toml and everything it names, in which verbs run."""
    office = make_office(tmp_path)
    port, private_port = free_port(), free_port()
    (tmp_path / "server.toml").write_text(
        f"""state = "state"
[fleet_door]
certificate = "cloud/server.pem"
key = "cloud/server.key"
ca = "cloud/tls-ca.pem"
[services]
host = "127.0.0.1"
port = {port}
[private_door]
port = {private_port}
[identity]
aggregator = "depot"
[enrolment]
public_address = "127.0.0.1:9091"
"""
    )
    monkeypatch.chdir(tmp_path)
    return office


@pytest.fixture
def service_process(machines):
    service = Service(machines.folder)
    yield service
    if service.process.poll() is None:
        service.kill()


def convoy(capsys, *words):
    code = run(words, installed_verbs())
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def join_until(capsys, token, wanted):
    """The device asks again and again, as a person would; bounded by the test's own time limit."""
    while True:
        outcome = convoy(
            capsys, "agent", "join", token, "--config", "device/agent.toml", "--no-wait"
        )
        if "cannot be asked now" not in outcome[2]:
            assert outcome[0] == wanted, outcome
            return outcome


def test_from_token_to_membership_by_verbs_with_a_service_that_is_killed(
    machines, service_process, capsys
):
    code, out, err = convoy(capsys, "fleet", "enroll", "car-07")
    assert (code, out.count("\n")) == (DONE, 1)
    assert "`convoy agent join` takes this line until" in err
    token = out.strip()
    assert read_token(token).services_address.startswith("127.0.0.1:")

    assert "waits for the CA" in join_until(capsys, token, FAILED)[2]
    service_process.kill()
    assert convoy(capsys, "fleet", "sign", "--fleet", "ca", "--config", "server.toml", "--yes")[
        1
    ] == (signed_lines(machines))
    service_process.start()
    assert "car-07 has joined" in join_until(capsys, token, DONE)[1]
    assert "car-07 joined before" in join_until(capsys, token, DONE)[1]
    party = load_party(machines.folder / "device" / "state" / "identity", datetime.now(UTC))
    assert (party.identity.name, party.role) == ("car-07", Role.VEHICLE)
    assert convoy(capsys, "fleet", "sign", "--fleet", "ca", "--config", "server.toml")[1] == (
        "nothing waits\n"
    )
    assert convoy(capsys, "fleet", "enroll", "car-07")[0] == WRONG_USAGE
    assert token not in (machines.folder / "service.log").read_text()


def signed_lines(office):
    (one,) = office.store.enrolments()
    line = f"vehicle car-07, new, key {one.keys.identity_key.hex()[:16]}"
    return f"{line}\n{line}: signed\n"


@pytest.mark.usefixtures("service_process")
def test_an_existing_agent_toml_stays_as_it_is(machines, capsys):
    (machines.folder / "device").mkdir()
    own = machines.folder / "device" / "agent.toml"
    own.write_text('state = "mine"\n[vehicle]\nvehicle_id = "car-07"\nrecordings = ["x"]\n')
    before = own.read_text()
    token = convoy(capsys, "fleet", "enroll", "car-07")[1].strip()
    join_until(capsys, token, FAILED)
    convoy(capsys, "fleet", "sign", "--fleet", "ca", "--config", "server.toml", "--yes")
    out = join_until(capsys, token, DONE)[1]
    assert 'put into its [server]: address = "127.0.0.1:9091" and services = "127.0.0.1:' in out
    assert own.read_text() == before
    assert (machines.folder / "device" / "mine" / "identity" / "identity.pem").exists()

    other = convoy(capsys, "fleet", "enroll", "car-08")[1].strip()
    code, _, err = convoy(capsys, "agent", "join", other, "--config", "device/agent.toml")
    assert code == WRONG_USAGE
    assert "vehicle_id is 'car-07', but the token is for 'car-08'" in err


def test_the_service_ends_when_it_is_asked_to(service_process, capsys):
    token = convoy(capsys, "fleet", "enroll", "car-07")[1].strip()
    join_until(capsys, token, FAILED)
    assert service_process.end() == 0


def test_wrong_usage_of_the_verbs(machines, capsys):
    assert convoy(capsys, "agent", "join", "convoy-join-1.cut")[0] == WRONG_USAGE
    assert convoy(capsys, "fleet", "sign", "--fleet", "ca")[0] == WRONG_USAGE
    assert convoy(capsys, "fleet", "sign", "--fleet", "ca", "--requests", "no")[0] == WRONG_USAGE
    (machines.folder / "server.toml").write_text(
        (machines.folder / "server.toml").read_text().replace("127.0.0.1:9091", "")
    )
    code, _, err = convoy(capsys, "fleet", "enroll", "car-07")
    assert code == WRONG_USAGE
    assert "public_address is empty" in err


def test_without_yes_and_without_a_terminal_nothing_is_signed(machines, capsys, monkeypatch):
    machines.desk().join(Device().request(machines.token()), NOW)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert convoy(capsys, "fleet", "sign", "--fleet", "ca", "--config", "server.toml")[0] != DONE
    (one,) = machines.store.enrolments()
    assert one.waits
