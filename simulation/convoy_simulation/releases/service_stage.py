"""A stage whose release service runs on 127.0.0.1, with vehicles that its TLS CA knows."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from convoy_edge_client.releases.release_client import ClientTls
from convoy_privacy.tls_authority import TlsAuthority
from convoy_privacy.tls_files import (
    SERVER_CERTIFICATE,
    SERVER_KEY,
    TLS_CA_CERTIFICATE,
    save_server,
)
from convoy_protos.errors import JobFailedError
from convoy_server.releases.release_keys import ONLINE_FOLDER, save_online_keys
from convoy_server.releases.release_service import ServiceLimits, TlsFiles, serve
from convoy_server.releases.rollout import RolloutBounds
from convoy_simulation.releases.release_stage import ReleaseStage

HOST = "127.0.0.1"
_LIMITS = ServiceLimits(calls_per_minute=100_000, tend_s=0.05)
_PATIENCE_S = 30.0


class ServiceStage:
    """Keys, repository, TLS and service of one fleet.

    Attributes:
        stage: What is served.
        members: Names of the vehicles that may call; may be changed while it runs.
    """

    def __init__(
        self, folder: Path, now: datetime, members: set[str], limits: ServiceLimits | None = None
    ) -> None:
        """A new fleet; nothing listens yet.

        Args:
            folder: New or empty.
            now: When everything is signed.
            members: Names.
            limits: Of each vehicle.
        """
        self.stage = ReleaseStage(folder / "stage", now)
        self.members = members
        self._now = now
        self._limits = limits or _LIMITS
        self._authority = TlsAuthority.create(now)
        self._tls = folder / "tls"
        save_online_keys(self.stage.releases / ONLINE_FOLDER, self.stage.online)
        save_server(self._tls, self._authority, self._authority.issue((HOST,), now))

    def client_tls(self, name: str, signer: TlsAuthority | None = None) -> ClientTls:
        """The pass of a vehicle of this name.

        Args:
            name: Becomes the certificate's.
            signer: Another CA than the one that signs passes.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (signer or self._authority).certify_client(
            name, 1, key.public_key(), self._now, 1
        )
        return ClientTls(
            ca=_pem(self._authority.certificate),
            certificate=_pem(certificate),
            private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )

    @contextmanager
    def running(self) -> Iterator[str]:
        """The service in a thread of its own; yields HOST:PORT.

        Raises:
            JobFailedError: It does not start.
        """
        running = _Running()
        thread = threading.Thread(target=lambda: asyncio.run(self._serve(running)), name="releases")
        thread.start()
        try:
            if not running.ready.wait(_PATIENCE_S):
                raise JobFailedError("the release service does not start")
            yield f"{HOST}:{running.port}"
        finally:
            if running.loop is not None:
                running.loop.call_soon_threadsafe(running.stop.set)
            thread.join(_PATIENCE_S)

    async def _serve(self, running: "_Running") -> None:
        running.loop = asyncio.get_running_loop()
        await serve(
            self.stage.releases,
            f"{HOST}:0",
            TlsFiles(
                certificate=self._tls / SERVER_CERTIFICATE,
                private_key=self._tls / SERVER_KEY,
                ca=self._tls / TLS_CA_CERTIFICATE,
            ),
            lambda name, _: name in self.members,
            limits=self._limits,
            lifetimes=self.stage.lifetimes,
            bounds=RolloutBounds(),
            stop=running.stop,
            on_port=running.tell,
        )


@dataclass(slots=True)
class _Running:
    """What the thread of a service tells the one that started it."""

    port: int = 0
    loop: asyncio.AbstractEventLoop | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    ready: threading.Event = field(default_factory=threading.Event)

    def tell(self, port: int) -> None:
        """It listens there."""
        self.port = port
        self.ready.set()


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
