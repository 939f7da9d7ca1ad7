"""The release service as its own process: a vehicle gets a pass, updates, reports, and is revoked."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from small_enrolment import make_office

from convoy_edge_client.errors import RepositoryDownError
from convoy_edge_client.releases.release_client import release_client
from convoy_edge_client.releases.service_pass import service_pass
from convoy_privacy import fleet_store
from convoy_privacy.certificates import Identity, Role
from convoy_privacy.key_files import read_certificate, write_file
from convoy_protos.v1.release_pb2 import ReleaseEvent
from convoy_server.releases.release_keys import save_online_keys
from convoy_server.service.passes import MemberList, PassOffice, pass_authority
from convoy_simulation.releases.release_stage import ReleaseStage

NOW = datetime.now(UTC)

SERVER_TOML = """
state = "state"
[fleet_door]
certificate = "cloud/server.pem"
key = "cloud/server.key"
ca = "cloud/tls-ca.pem"
[identity]
aggregator = "depot"
[releases]
folder = "stage/releases"
host = "127.0.0.1"
port = {port}
"""


@pytest.fixture
def office(tmp_path):
    return make_office(tmp_path)


@pytest.fixture
def stage(tmp_path):
    stage = ReleaseStage(tmp_path / "stage", NOW)
    save_online_keys(stage.releases / "online", stage.online)
    stage.point(stage.publish(b"model"))
    return stage


@contextlib.contextmanager
def service(folder):
    """The process; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = folder / "server.toml"
    config.write_text(SERVER_TOML.format(port=port))
    process = subprocess.Popen(
        [sys.executable, "-m", "convoy_server.service.releases", str(config)]
    )
    try:
        deadline_s = time.monotonic() + 60.0
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, "the service ended"
            assert time.monotonic() < deadline_s, "the service does not listen"
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_vehicle_with_a_pass_updates_and_reports_until_it_is_revoked(office, stage, tmp_path):
    authority = fleet_store.load_fleet(office.fleet)
    issued = authority.issue("car-07", Role.VEHICLE, NOW)
    fleet_store.save_fleet(office.fleet, authority)
    identity = Identity(
        certificate=issued.certificate, signing_key=issued.signing_key, name="car-07"
    )
    passes = PassOffice(pass_authority(office.config.state_folder, NOW), MemberList(office.depot))
    tls_ca = read_certificate(tmp_path / "cloud" / "tls-ca.pem")
    car = stage.vehicle()
    with service(tmp_path) as address:
        with office.serving(passes=passes) as enrolment:
            tls = service_pass(tmp_path / "pass.pem", identity, enrolment, tls_ca, NOW)
        with release_client(address, tls) as car.source:
            assert car.update(NOW)[1] == b"model"
            event = ReleaseEvent(number=1, release="r1", outcome=ReleaseEvent.OUTCOME_COMMITTED)
            assert car.source.report([event]) == 1
            office.revoke("car-07", NOW)
            newest = (office.fleet / "revoked.crl").read_bytes()
            write_file(office.depot / "revoked.crl", newest)
            with pytest.raises(RepositoryDownError, match="no member of this fleet any more"):
                car.check(NOW)
