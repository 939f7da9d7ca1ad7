"""Can the server be reached, and is it ours?"""

import contextlib
import http.server
import socket
import ssl
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from small_enrolment import NOW, agent_config, make_office

from convoy_edge_client.agent.agent_config import ServerConfig
from convoy_edge_client.agent.doctor.server_reach import (
    failure_finding,
    look_at_server,
    reach_finding,
)
from convoy_protos.findings import Level


class Silent(http.server.BaseHTTPRequestHandler):
    """Answers HEAD as the fleet door does: not found, with a date."""

    def do_HEAD(self):
        self.send_response(404)
        self.end_headers()

    def log_message(self, *args):
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Says nothing about clients that hang up."""

    def handle_error(self, request, client_address):
        """They are the test."""


@contextlib.contextmanager
def https(folder):
    """A server with the TLS files of that folder, without TLS where it is None; yields its port."""
    with Server(("127.0.0.1", 0), Silent) as server:
        if folder is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(folder / "server.pem", folder / "server.key")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    make_office(folder)
    return folder


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger")
    make_office(folder)
    return folder


def config_for(fleet, **server):
    pinned = str(fleet / "cloud/tls-ca.pem")
    return replace(
        agent_config(fleet, ""), server=ServerConfig(**({"root_certificates": pinned} | server))
    )


def test_a_server_that_is_ours_is_found_with_its_clock(fleet):
    with https(fleet / "cloud") as port:
        address = f"127.0.0.1:{port}"
        findings = look_at_server(config_for(fleet, address=address, services=address))

    assert [(one.subject, one.level) for one in findings] == [
        ("server", Level.OK),
        ("clock of server", Level.OK),
        ("services", Level.OK),
    ]


def test_a_server_that_another_ca_vouches_for_is_a_problem(fleet, stranger):
    with https(stranger / "cloud") as port:
        (finding,) = look_at_server(config_for(fleet, address=f"127.0.0.1:{port}"))

    assert finding.level is Level.PROBLEM
    assert "another server, or the wrong CA file" in finding.message


def test_a_server_under_another_name_is_a_problem(fleet):
    """The certificate is for 127.0.0.1."""
    with https(fleet / "cloud") as port:
        (finding,) = look_at_server(config_for(fleet, address=f"localhost:{port}"))

    assert finding.level is Level.PROBLEM
    assert "its certificate is refused" in finding.message


def test_a_server_without_tls_is_a_problem(fleet):
    with https(None) as port:
        (finding,) = look_at_server(config_for(fleet, address=f"127.0.0.1:{port}"))

    assert finding.level is Level.PROBLEM
    assert "does not speak TLS" in finding.message


def test_a_port_where_nobody_listens_is_a_problem(fleet):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (finding,) = look_at_server(config_for(fleet, address=f"127.0.0.1:{port}"))

    assert finding.level is Level.PROBLEM
    assert "nobody listens there" in finding.message


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({}, "agent.toml names none"),
        ({"address": "127.0.0.1:1", "root_certificates": "/nowhere.pem"}, "no pinned CA"),
    ],
)
def test_what_agent_toml_lacks_is_said_before_anything_is_sent(fleet, server, words):
    (finding,) = look_at_server(config_for(fleet, **server))
    assert finding.level is Level.PROBLEM
    assert words in finding.message


def test_a_pinned_file_that_is_no_certificate_is_a_problem(fleet, tmp_path):
    (tmp_path / "ca.pem").write_text("hello")
    config = config_for(fleet, address="127.0.0.1:1", root_certificates=str(tmp_path / "ca.pem"))
    (finding,) = look_at_server(config)
    assert "not a CA certificate in PEM" in finding.message


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "its name is not known"),
        (TimeoutError("timed out"), "does not answer"),
        (ssl.SSLError(1, "wrong version number"), "does not speak TLS"),
        (OSError(113, "No route to host"), "No route to host"),
    ],
)
def test_each_failure_has_its_way_out(error, words):
    finding = failure_finding("server", "cloud:443", error)
    assert finding.level is Level.PROBLEM
    assert "cloud:443" in finding.message
    assert words in finding.message


def test_a_certificate_of_the_server_that_ends_soon_is_seen():
    ends = (NOW + timedelta(days=3)).strftime("%b %d %H:%M:%S %Y GMT")
    finding = reach_finding("server", "cloud:443", {"notAfter": ends}, datetime.now(UTC))
    assert finding.level is Level.WARNING
    assert "convoy fleet add" in finding.message
