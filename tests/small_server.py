"""A server's folder with everything that server.toml names: certificates, aggregator, free ports."""

import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

from convoy_privacy.certificates import Role
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.party import save_party
from convoy_privacy.sealing import X25519_SUITE, generate_sealing_key
from convoy_privacy.tls_authority import TlsAuthority
from convoy_privacy.tls_files import save_server
from convoy_server.service.server_config import ServerConfig, server_config_from_table

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def small_server(
    folder: Path,
    *,
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost"),
    made: datetime = NOW - timedelta(days=1),
    role: Role = Role.AGGREGATOR,
) -> ServerConfig:
    """Write the files and give the configuration that names them."""
    authority = FleetAuthority.create(made)
    identity = authority.issue("cloud", role, made)
    save_party(
        folder / "aggregator",
        authority,
        identity.certificate,
        signing_key=identity.signing_key,
        sealing_key=generate_sealing_key(X25519_SUITE, os.urandom),
    )
    tls = TlsAuthority.create(made)
    save_server(folder / "tls", tls, tls.issue(hosts, made))
    ports = free_ports(4)
    table = {
        "state": "state",
        "fleet_door": {
            "host": "127.0.0.1",
            "port": ports[0],
            "certificate": "tls/server.pem",
            "key": "tls/server.key",
            "ca": "tls/tls-ca.pem",
        },
        "private_door": {"port": ports[1]},
        "services": {"host": "127.0.0.1", "port": ports[2]},
        "metrics": {"port": ports[3]},
        "identity": {"aggregator": "aggregator"},
        "enrolment": {"public_address": f"{hosts[0]}:{ports[0]}"},
        "runs": {"keep_free_mb": 1},
    }
    return server_config_from_table(table, "server.toml", folder)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nobody listened a moment ago."""
    doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [door.getsockname()[1] for door in doors]
    for door in doors:
        door.close()
    return ports
