"""The release service over gRPC on 127.0.0.1: who may call, what is answered, what is bounded."""

import contextlib
import socket
import time
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from convoy_edge_client.errors import RepositoryDownError
from convoy_edge_client.releases.byte_source import MissingFileError
from convoy_edge_client.releases.release_client import CallTimeouts, HintPace, release_client
from convoy_privacy.releases.layout import stored_path
from convoy_privacy.tls_authority import TlsAuthority
from convoy_protos.v1.release_pb2 import FetchRequest, ReleaseEvent, ReportRequest
from convoy_server.releases.release_service import (
    Callers,
    ReleaseDesk,
    RequestRefusedError,
    ServiceLimits,
)
from convoy_server.releases.repository import read_channels
from convoy_server.releases.rollout import Outcome
from convoy_simulation.releases.release_stage import MODEL, ReleaseStage
from convoy_simulation.releases.service_stage import ServiceStage

NOW = datetime.now(UTC)

FETCH = "/convoy.v1.Releases/Fetch"


@pytest.fixture
def service(tmp_path):
    return ServiceStage(tmp_path, NOW, {"car-1", "car-2"})


@pytest.fixture
def running(service):
    """A service with one release for everybody, and its address."""
    service.model = bytes(range(256)) * 3000
    service.release = service.stage.publish(service.model)
    service.stage.point(service.release)
    with service.running() as address:
        service.address = address
        yield service


def client(service, name="car-1", **tls):
    return release_client(service.address, service.client_tls(name, **tls))


def event(number, outcome, release="r1", reason=""):
    return ReleaseEvent(number=number, release=release, outcome=outcome, reason=reason)


def test_a_vehicle_updates_over_grpc(running):
    car = running.stage.vehicle()
    with client(running) as car.source:
        assert car.update(NOW) == (running.release.release, running.model)


def test_a_cut_transfer_goes_on_at_its_offset(running):
    target = running.release.files[MODEL]
    path = f"targets/{target.path.replace(MODEL, target.hashes['sha256'] + '.' + MODEL)}"
    with client(running) as source:
        first = next(iter(source.read(path, 0)))
        assert len(first) == 256 * 1024
        rest = b"".join(source.read(path, len(first)))
        assert first + rest == running.model
        assert list(source.read(path, len(running.model))) == []


@pytest.mark.parametrize(
    ("path", "error", "said"),
    [
        ("metadata/9.root.json", MissingFileError, "not in the repository"),
        ("targets/releases", MissingFileError, "not in the repository"),
        ("../online/timestamp.key", RepositoryDownError, "no path in a release repository"),
        ("online/timestamp.key", RepositoryDownError, "no path in a release repository"),
        ("metadata/../../online/timestamp.key", RepositoryDownError, "no path"),
    ],
)
def test_only_the_public_repository_is_served(running, path, error, said):
    with client(running) as source, pytest.raises(error, match=said):
        list(source.read(path, 0))


def test_an_offset_beyond_the_end_is_refused(running):
    with client(running) as source, pytest.raises(RepositoryDownError, match="ends before"):
        list(source.read("metadata/timestamp.json", 1 << 40))


def test_a_server_that_is_not_there_or_says_nothing_is_down(service):
    tls = service.client_tls("car-1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            release_client(address, tls, CallTimeouts(short_s=0.2)) as source,
            pytest.raises(RepositoryDownError, match="deadline_exceeded"),
        ):
            list(source.read("metadata/timestamp.json", 0))
    with (
        release_client(address, tls) as source,
        pytest.raises(RepositoryDownError, match="unavailable"),
    ):
        list(source.read("metadata/timestamp.json", 0))


def test_a_vehicle_that_does_not_read_loses_its_stream(tmp_path):
    limits = ServiceLimits(calls_per_minute=100_000, streams_at_once=1, transfer_s=0.3, tend_s=0.05)
    service = ServiceStage(tmp_path, NOW, {"car-1"}, limits)
    target = service.stage.publish(bytes(32 << 20)).files[MODEL]
    path = stored_path(target.path, target.hashes["sha256"])
    tls = service.client_tls("car-1")
    with service.running() as address, release_client(address, tls) as slow:
        reading = slow.read(path, 0)
        next(reading)
        with release_client(address, tls) as other:

            def answered():
                with contextlib.suppress(RepositoryDownError):
                    return bool(list(other.read("metadata/timestamp.json", 0)))
                return False

            until_s = time.monotonic() + 20.0
            while not answered():  # until the server has ended the first stream
                assert time.monotonic() < until_s
        with pytest.raises(RepositoryDownError, match="too slow: go on with a new call"):
            list(reading)


def test_a_certificate_of_another_ca_does_not_connect(running):
    with (
        client(running, signer=TlsAuthority.create(NOW)) as source,
        pytest.raises(RepositoryDownError),
    ):
        list(source.read("metadata/timestamp.json", 0))


def test_nobody_connects_without_a_certificate(running):
    tls = running.client_tls("car-1")
    channel = grpc.secure_channel(running.address, grpc.ssl_channel_credentials(tls.ca))
    call = channel.unary_stream(FETCH)
    with pytest.raises(grpc.RpcError):
        list(call(b"", timeout=10))
    channel.close()


def test_a_vehicle_that_left_the_fleet_gets_nothing(running):
    with client(running) as source:
        list(source.read("metadata/timestamp.json", 0))
        running.members.remove("car-1")
        with pytest.raises(RepositoryDownError, match="car-1 is no member of this fleet any more"):
            list(source.read("metadata/timestamp.json", 0))


@pytest.mark.parametrize("data", [b"\xff" * 50, b"\x0a\xff", b"\x0a\x02\xff\xff"])
def test_garbage_is_answered_and_the_next_call_works(running, data):
    tls = running.client_tls("car-1")
    credentials = grpc.ssl_channel_credentials(tls.ca, tls.private_key, tls.certificate)
    channel = grpc.secure_channel(running.address, credentials)
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.unary_stream(FETCH)(data, timeout=10))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    channel.close()
    with client(running) as source:
        assert list(source.read("metadata/timestamp.json", 0))


def test_who_listens_hears_of_what_is_published(running):
    with client(running) as source:
        hints = source.hints()
        first = next(hints)
        running.stage.point(running.stage.publish(b"next"))
        assert next(hints) > first
        hints.close()


def test_reports_pause_a_failing_rollout(running):
    failed = ReleaseEvent.OUTCOME_FAILED
    for name in ("car-1", "car-2"):
        with client(running, name) as source:
            hints = source.hints()
            next(hints)
            events = [
                event(1, ReleaseEvent.OUTCOME_STARTED, running.release.release),
                event(2, failed, running.release.release, "golden vectors differ"),
            ]
            assert source.report(events) == 2
            assert source.report(events) == 2  # the answer was lost: nothing changes
            if name == "car-2":
                next(hints)  # the pause
            hints.close()
    state = running.stage.state()
    pointer = read_channels(running.stage.repository, state.channels.signed)["stable"]
    assert pointer.state == "paused"


def test_the_repository_stays_fresh_by_itself(tmp_path):
    service = ServiceStage(tmp_path, NOW, {"car-1", "car-2"})
    service.stage.now = NOW - timedelta(hours=20)
    service.stage.point(service.stage.publish(b"model"))
    published = service.stage.state().timestamp.signed.version
    with service.running() as address, release_client(address, service.client_tls("car-1")) as car:
        hints = car.hints()
        version = 0
        while version <= published:  # renewed before or after the first hint
            version = next(hints)
        hints.close()
    assert service.stage.state().timestamp.signed.expires > NOW + timedelta(hours=23)


def refusal(act):
    with pytest.raises(RequestRefusedError) as caught:
        act()
    return caught.value.code


def passed(name, membership=1):
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    der = TlsAuthority.create(NOW).certify_client(name, membership, key, NOW, 1)
    return [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)]


def test_a_vehicle_may_call_so_often_and_no_more():
    callers = Callers(ServiceLimits(calls_per_minute=2), lambda *_: True)
    one, other = passed("car-1"), passed("car-2")
    for _ in range(2):
        assert callers.admit(one, 0.0) == "car-1"
    assert refusal(lambda: callers.admit(one, 0.0)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert callers.admit(other, 0.0) == "car-2"
    assert callers.admit(one, 30.0) == "car-1"


def test_a_revoked_membership_is_refused_whatever_the_name():
    callers = Callers(ServiceLimits(), lambda _name, membership: membership != 7)
    assert callers.admit(passed("car-1", 8), 0.0) == "car-1"
    revoked = passed("car-1", 7)
    assert refusal(lambda: callers.admit(revoked, 0.0)) is grpc.StatusCode.PERMISSION_DENIED


def test_a_certificate_that_is_no_pass_is_refused():
    callers = Callers(ServiceLimits(), lambda *_: True)
    server = TlsAuthority.create(NOW).issue(("127.0.0.1",), NOW).certificate
    pem = x509.load_der_x509_certificate(server).public_bytes(Encoding.PEM)
    for shown in ([], [b""], [b"garbage"], [pem], [pem, pem]):
        code = refusal(lambda shown=shown: callers.admit(shown, 0.0))
        assert code is grpc.StatusCode.UNAUTHENTICATED


def test_a_vehicle_has_so_many_streams_and_no_more():
    callers = Callers(ServiceLimits(streams_at_once=1), lambda *_: True)

    def second():
        with callers.stream("car-1"):
            pass

    with callers.stream("car-1"):
        assert refusal(second) is grpc.StatusCode.RESOURCE_EXHAUSTED
        with callers.stream("car-2"):
            pass
    second()


@pytest.fixture
def desk(tmp_path):
    return ReleaseDesk(ReleaseStage(tmp_path, NOW).releases)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [event(1, ReleaseEvent.OUTCOME_STARTED)] * 65,
        [event(1, ReleaseEvent.OUTCOME_UNSPECIFIED)],
        [event(1, 99)],
        [event(1 << 63, ReleaseEvent.OUTCOME_STARTED)],
        [event(1, ReleaseEvent.OUTCOME_STARTED, release="../r1")],
        [event(1, ReleaseEvent.OUTCOME_FAILED, reason="x" * 501)],
        [event(1, ReleaseEvent.OUTCOME_FAILED, reason="two\nlines")],
        [event(1, ReleaseEvent.OUTCOME_STARTED), event(2, 99)],  # nothing of it is kept
    ],
)
def test_events_that_are_none_are_refused_whole(desk, events):
    request = ReportRequest(events=events)
    assert refusal(lambda: desk.report("a", request)) is grpc.StatusCode.INVALID_ARGUMENT
    assert desk._book.reports("r1") == []


def test_what_a_vehicle_says_is_kept(desk):
    desk.report("a", ReportRequest(events=[event(7, ReleaseEvent.OUTCOME_ROLLED_BACK)]))
    (report,) = desk._book.reports("r1")
    assert (report.vehicle, report.number, report.outcome) == ("a", 7, Outcome.ROLLED_BACK)


@given(st.text(max_size=60), st.integers(0, (1 << 64) - 1))
def test_whatever_path_is_asked_for_only_public_files_come(tmp_path_factory, path, offset):
    folder = tmp_path_factory.getbasetemp() / "any-path"
    if not folder.exists():
        ReleaseStage(folder, NOW)
    desk = ReleaseDesk(folder / "releases")
    for asked in (path, f"metadata/{path}", f"targets/../{path}"):
        with pytest.raises(RequestRefusedError):
            list(desk.chunks(FetchRequest(path=asked, offset=offset)))


@pytest.mark.parametrize(
    ("now_s", "last_check_s", "wait_s"),
    [
        (100.0, None, 0.0),  # the first hint
        (100.0, 70.0, 0.0),
        (100.0, 99.0, 29.0),  # a flood costs one check in a while
        (100.0, 100.0, 30.0),
    ],
)
def test_hints_lead_to_a_check_at_most_every_so_often(now_s, last_check_s, wait_s):
    assert HintPace(30.0).wait_s(now_s, last_check_s) == wait_s


@pytest.mark.parametrize("name", ["calls_per_minute", "streams_at_once", "transfer_s", "tend_s"])
def test_limits_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=name):
        ServiceLimits(**{name: 0})
