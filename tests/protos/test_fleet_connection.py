"""A node's calls: which answers are worth asking again, and which are not."""

import ssl
from datetime import UTC, datetime
from types import SimpleNamespace

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from convoy_privacy.tls_authority import TlsAuthority
from convoy_protos.errors import LinkDownError, LinkError, LinkRefusedError, NodeUnknownError
from convoy_protos.flower_internals import FleetConnection


@pytest.fixture(scope="module")
def connection():
    key = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )
    ca = ssl.DER_cert_to_PEM_cert(TlsAuthority.create(datetime.now(UTC)).certificate).encode()
    connection = FleetConnection("127.0.0.1:1", ca, key)
    yield connection
    connection.close()


def answers(monkeypatch, connection, error):
    """Have every call end with this."""

    def call(request):  # noqa: ARG001 - as Flower calls it
        raise error

    double = SimpleNamespace(SendNodeHeartbeat=call, close=lambda: None)
    monkeypatch.setattr(connection, "_client", double)


def status(code):
    request = httpx.Request("POST", "https://127.0.0.1:1")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(code, text="why"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (status(500), LinkDownError),  # a database that is locked, a server that is stopping
        (status(503), LinkDownError),
        (status(429), LinkDownError),
        (status(408), LinkDownError),
        (status(401), NodeUnknownError),  # forgotten, revoked, or a clock that is wrong
        (status(403), LinkRefusedError),
        (status(404), LinkRefusedError),
        (httpx.ConnectError("no route"), LinkDownError),
        (httpx.ReadTimeout("slow"), LinkDownError),
        (ValueError("not a protobuf"), LinkDownError),  # somebody else's web page
    ],
)
def test_an_answer_is_worth_asking_again_or_it_is_not(monkeypatch, connection, error, kind):
    answers(monkeypatch, connection, error)
    with pytest.raises(LinkError) as caught:
        connection.heartbeat(30.0)
    assert type(caught.value) is kind


def test_a_connection_stays_open_between_two_questions(connection):
    """Read where Flower's client keeps it: a release that moves it fails here."""
    pool = connection._client._client._transport._pool
    assert pool._keepalive_expiry == 60.0
