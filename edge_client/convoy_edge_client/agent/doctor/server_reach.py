"""Can the server be reached, and is it ours? TCP, then TLS against the pinned CA and no other."""

import http.client
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from convoy_edge_client.agent.agent_config import AgentConfig, host_and_port
from convoy_edge_client.agent.doctor.clock import skew_finding
from convoy_protos.findings import Finding, ok, problem, warning

_TIMEOUT_S: Final = 5.0
_SOON: Final = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server showed.

    Attributes:
        certificate: As `ssl.SSLSocket.getpeercert` gives it.
        date: Its Date header; None: none was asked for, or none came.
        at: When the answer came.
    """

    certificate: dict[str, Any]
    date: str | None
    at: datetime


def look_at_server(config: AgentConfig) -> list[Finding]:
    """Connect to both addresses."""
    server = config.server
    if not server.address:
        return [
            problem(
                "server", "agent.toml names none: `convoy agent join TOKEN`, or [server] address"
            )
        ]
    pinned = config.root_certificates_path
    if not pinned.exists():
        return [
            problem("server", f"no pinned CA at {pinned}: `convoy agent join TOKEN` puts it there")
        ]
    findings = _look("server", server.address, pinned, _ask_date)
    if server.services:
        findings += _look("services", server.services, pinned, _shake_hands)
    return findings


def reach_finding(
    subject: str, address: str, certificate: dict[str, Any], now: datetime
) -> Finding:
    """A server that is ours; how long its certificate lasts."""
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    if ends - now < _SOON:
        return warning(
            subject,
            f"{address} answers, but its TLS certificate ends {ends:%Y-%m-%d}: "
            "`convoy fleet add FLEET NAME --role server` makes a new one",
        )
    return ok(subject, f"{address} answers, and the pinned CA vouches for it")


def failure_finding(subject: str, address: str, error: Exception) -> Finding:
    """Why a server could not be talked to, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate is refused ({error.verify_message}): another server, or the wrong CA file"
    elif isinstance(error, ssl.SSLError):
        why = f"does not speak TLS ({error}): is this the fleet door's port?"
    elif isinstance(error, socket.gaierror):
        why = "its name is not known: check the address and this machine's DNS"
    elif isinstance(error, TimeoutError):
        why = "does not answer: a firewall, or no network"
    elif isinstance(error, ConnectionRefusedError):
        why = "nobody listens there: is the server up, and the port right?"
    else:
        why = f"the connection failed ({error}): check network and address"
    return problem(subject, f"{address}: {why}")


def _look(
    subject: str, address: str, pinned: Path, ask: Callable[[str, int, ssl.SSLContext], Answer]
) -> list[Finding]:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(pinned)
    except (OSError, ssl.SSLError) as error:
        return [problem(subject, f"{pinned}: not a CA certificate in PEM ({error})")]
    try:
        answer = ask(*host_and_port(address, "address"), context)
    except (OSError, http.client.HTTPException) as error:
        return [failure_finding(subject, address, error)]
    return [
        reach_finding(subject, address, answer.certificate, answer.at),
        *skew_finding(answer.date, answer.at),
    ]


def _shake_hands(host: str, port: int, context: ssl.SSLContext) -> Answer:
    with (
        socket.create_connection((host, port), _TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return Answer(dict(secure.getpeercert() or {}), None, datetime.now(UTC))


def _ask_date(host: str, port: int, context: ssl.SSLContext) -> Answer:
    connection = http.client.HTTPSConnection(host, port, context=context, timeout=_TIMEOUT_S)
    try:
        connection.connect()
        certificate = dict(connection.sock.getpeercert() or {})
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("Date")
        return Answer(certificate, date, datetime.now(UTC))
    finally:
        connection.close()
