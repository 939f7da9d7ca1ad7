"""A Convoy service on loopback for benchmarks: its files, and the processes that are started beside it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from convoy_privacy.tls_authority import TlsAuthority
from convoy_privacy.tls_files import save_server
from convoy_protos.errors import SuperLinkError
from convoy_protos.flower_internals import register_node

BIN = Path(sys.executable).parent
SERVER_TOML = """\
state = "state"
[fleet_door]
host = "127.0.0.1"
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


class Processes:
    """Started here; each is ended by its id."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """One of the programs beside this Python, with its own log."""
        with (self._folder / f"{len(self._started)}-{name}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own and Flower's programs
                [str(BIN / name), *arguments],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def end(self) -> None:
        """All of them and what they have started."""
        below = []
        for process in self._started:
            with contextlib.suppress(psutil.NoSuchProcess):
                below += psutil.Process(process.pid).children(recursive=True)
        for process in reversed(self._started):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self._started):
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for child in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def tls_files(work: Path) -> Path:
    """A CA and a server's certificate for loopback."""
    now = datetime.now(UTC)
    authority = TlsAuthority.create(now)
    save_server(work / "tls", authority, authority.issue(("127.0.0.1", "localhost"), now))
    return work / "tls"


def new_node_key(path: Path) -> bytes:
    """Write a node's private key; its public one."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    return key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )


def let_in(private: str, public_key: bytes, name: str) -> bool:
    """Whether the SuperLink is up and has taken the key."""
    try:
        register_node(private, public_key, name)
    except SuperLinkError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nobody listened a moment ago."""
    doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(door.getsockname()[1]) for door in doors]
    for door in doors:
        door.close()
    return ports


def listening(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], bool], patience_s: float, what: str) -> None:
    """Wait until it is true, not for ever."""
    end_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end_s:
            raise SystemExit(f"waited {patience_s:g} s in vain until {what}")
        time.sleep(0.1)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A temporary one; kept where a measurement failed, for its logs."""
    path = Path(tempfile.mkdtemp(prefix="convoy-deployment-"))
    try:
        yield path
    except BaseException:
        print(f"logs are in {path}", file=sys.stderr)
        raise
    shutil.rmtree(path)
