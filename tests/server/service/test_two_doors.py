"""One real SuperLink behind two doors: what vehicles can reach of it, and what they cannot."""

import asyncio
import http.client
import socket
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from small_device import let_in
from small_doors import open_doors, server_in
from small_server import small_server

from convoy_protos.flower_internals import (
    FleetConnection,
    act_as_server,
    finish_task,
    make_superlink,
    run_outcomes,
    server_identity,
    start_run,
    take_task,
)
from convoy_protos.run_bundle import RUN_KEY, build_run_bundle
from convoy_server.service.child_processes import end_child, start_child
from convoy_server.service.door_bell import DoorBell
from convoy_server.service.two_doors import FLEET_PATHS, HEALTH_PATH, fleet_only


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    """The configuration of a SuperLink that runs."""
    config, file = server_in(tmp_path_factory.mktemp("server"))
    with open_doors(config, file):
        yield config


@pytest.fixture(scope="module")
def superlink(tmp_path_factory):
    """Flower's, as it is served behind the doors."""
    config = small_server(tmp_path_factory.mktemp("routes"), made=datetime.now(UTC))
    door = config.fleet_door
    return make_superlink(
        host="127.0.0.1",
        port=config.private_door.port,
        database=":flwr-in-memory:",
        certificate=door.certificate,
        key=door.key,
        ca=door.ca,
    )


@pytest.fixture(scope="module")
def routes(superlink):
    """Every method and path that Flower's SuperLink answers."""
    from fastapi.routing import iter_route_contexts  # noqa: PLC0415

    found = {
        (method, route.path)
        for route in iter_route_contexts(superlink.routes)
        for method in (route.methods or ())
    }
    assert len(found) > 20
    return sorted(found)


def test_whoever_authenticates_stands_before_the_superlink_and_hardly_anyone_else(superlink):
    names = {each.cls.__name__ for each in superlink.user_middleware}
    assert {"ControlAuthenticationMiddleware", "NodeAuthMiddleware"} <= names
    assert not any("License" in name or "EventLog" in name for name in names)


def test_an_upload_that_was_cut_may_go_on_within_an_hour(superlink):
    del superlink
    from flwr.supercore.corestate import sql_corestate  # noqa: PLC0415

    assert sql_corestate.OBJECT_PUSH_SESSION_TTL_SECONDS == 3600


@pytest.mark.slow
def test_the_fleet_door_shows_the_fleets_paths_and_health_and_nothing_else(doors, routes):
    public = [one for one in routes if one[1].startswith(FLEET_PATHS) or one[1] == HEALTH_PATH]
    hidden = [one for one in routes if one not in public]
    assert len(public) > 5
    assert any("/control/" in path for _, path in hidden)
    assert any("/runtime/" in path for _, path in hidden)
    assert [one for one in hidden if at_fleet_door(doors, *one) != 404] == []
    assert [one for one in public if at_fleet_door(doors, *one) == 404] == []


@pytest.mark.slow
def test_a_device_hears_the_bell_through_the_fleet_door(doors, tmp_path):
    private, door = f"127.0.0.1:{doors.private_door.port}", doors.fleet_door
    let_in(private, tmp_path / "node.key", "car")
    connection = FleetConnection(
        f"127.0.0.1:{door.port}", Path(door.ca).read_bytes(), (tmp_path / "node.key").read_bytes()
    )
    node = connection.activate(30.0)
    before = connection.wait_for_call("")
    run_id = start_run(private, build_run_bundle({RUN_KEY: "{}"}))
    task, _ = take_task(private)
    heard = []
    listener = threading.Thread(target=lambda: heard.append(connection.wait_for_call(before)))
    listener.start()
    with server_identity():  # gives back what act_as_server changes
        grid = act_as_server(private, task)
        grid.push_messages([Message(RecordDict({"ask": ConfigRecord({"a": 1})}), node, "train")])
        grid.close()
    listener.join(timeout=20)
    finish_task(private, task)
    assert run_id == task.run_id
    assert len(heard) == 1
    assert heard[0] != before
    assert connection.pull() is not None
    connection.close()


@pytest.mark.slow
def test_a_node_that_did_not_sign_is_turned_away(doors, routes):
    fleet = [one for one in routes if one[1].startswith(FLEET_PATHS)]
    answers = {one[1]: at_fleet_door(doors, *one) for one in fleet}
    assert {path: status for path, status in answers.items() if status != 401} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/..%2fcontrol/list-runs",
        "//v1/control/list-runs",
        "/V1/FLEET/../control/list-runs",
        "/v1/fleet",
        "/v1/fleetx/",
        "/health/",
        "/docs",
        "/openapi.json",
        "/",
    ],
)
def test_no_spelling_of_a_path_leads_round_the_door(doors, path):
    assert at_fleet_door(doors, "POST", path) in {401, 404}
    assert at_fleet_door(doors, "GET", path) in {401, 404}


@pytest.mark.slow
def test_the_private_door_takes_orders_and_the_fleet_door_speaks_tls_only(doors):
    assert isinstance(run_outcomes(f"127.0.0.1:{doors.private_door.port}"), dict)
    plain = http.client.HTTPConnection("127.0.0.1", doors.fleet_door.port, timeout=10)
    with pytest.raises((http.client.HTTPException, OSError)):
        plain.request("GET", HEALTH_PATH)
        plain.getresponse()


@pytest.mark.slow
@pytest.mark.parametrize("taken", ["fleet_door", "private_door"])
def test_a_door_that_cannot_be_opened_ends_the_process(tmp_path, taken):
    """The fleet door is served by a thread: its fault must not leave half a server."""
    config, file = server_in(tmp_path)
    with socket.create_server(("127.0.0.1", config.ports[taken])):
        process = start_child("two_doors", file)
        try:
            assert process.wait(timeout=120) == 1
        finally:
            end_child(process)


@pytest.mark.slow
def test_flower_calls_nobody(tmp_path):
    """Flower reads its switches when it is imported: they must be there before."""
    _, file = server_in(tmp_path)
    process = start_child("two_doors", file)
    try:
        environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    finally:
        end_child(process)
    assert b"FLWR_TELEMETRY_ENABLED=0" in environment
    assert b"FLWR_DISABLE_UPDATE_CHECK=1" in environment


def test_websockets_are_not_let_through():
    asked = []

    async def app(scope, _receive, _send):
        asked.append(scope)

    asyncio.run(
        fleet_only(app, DoorBell())({"type": "websocket", "path": "/v1/fleet/x"}, None, None)
    )
    assert asked == []


def at_fleet_door(config, method, path):
    """The status of an empty request in Flower's encoding."""
    trusted = ssl.create_default_context(cafile=config.fleet_door.ca)
    connection = http.client.HTTPSConnection(
        "127.0.0.1", config.fleet_door.port, timeout=20, context=trusted
    )
    try:
        connection.request(method, path, headers={"Content-Type": "application/protobuf"})
        return connection.getresponse().status
    finally:
        connection.close()
