"""A SuperLink behind two doors, as a process, for tests of whatever goes through them."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from small_server import free_ports, small_server

from convoy_server.service.child_processes import end_child, start_child
from convoy_server.service.server_config import ServerConfig, load_server_config

PORTS = ("fleet_door", "private_door", "services", "metrics")
SERVER_TOML = """\
state = "state"
[fleet_door]
host = "{host}"
port = {fleet_door}
certificate = "tls/server.pem"
key = "tls/server.key"
ca = "tls/tls-ca.pem"
[private_door]
port = {private_door}
[services]
host = "127.0.0.1"
port = {services}
[metrics]
port = {metrics}
[identity]
aggregator = "{aggregator}"
[runs]
keep_free_mb = 1
"""


def server_in(
    folder: Path, aggregator: Path | str = "aggregator", host: str = "127.0.0.1"
) -> tuple[ServerConfig, Path]:
    """A configuration whose certificates are valid today, and its file.

    Args:
        folder: Where everything is made.
        aggregator: Whose identity the file names; without it, one of a fleet without vehicles.
        host: Where vehicles find it.
    """
    small_server(folder, made=datetime.now(UTC), hosts=(host, "localhost"))
    file = folder / "server.toml"
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    file.write_text(SERVER_TOML.format(aggregator=aggregator, host=host, **ports))
    return load_server_config(file), file


@contextmanager
def open_doors(config: ServerConfig, file: Path) -> Iterator[None]:
    """The SuperLink answers meanwhile."""
    process = start_child("two_doors", file)
    try:
        for port in (config.fleet_door.port, config.private_door.port):
            _wait_until_open(process, port)
        yield
    finally:
        end_child(process)


def _wait_until_open(process: subprocess.Popen[bytes], port: int) -> None:
    end_s = time.monotonic() + 120
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, "the SuperLink ended"
        assert time.monotonic() < end_s, "the SuperLink does not listen"
        time.sleep(0.1)
