"""The release service of a stage on 127.0.0.1, in a thread, and vehicles with certificates of its CA."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
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
from convoy_privacy.tls_files import TLS_CA_CERTIFICATE, save_server
from convoy_server.releases.release_keys import save_online_keys
from convoy_server.releases.release_service import ServiceLimits, TlsFiles, serve
from convoy_server.releases.rollout import RolloutBounds
from convoy_simulation.releases.release_stage import ReleaseStage

NOW = datetime.now(UTC)


class SmallService:
    """Files and certificates of one service; `running` starts it."""

    def __init__(self, folder: Path, limits: ServiceLimits | None = None) -> None:
        self.stage = ReleaseStage(folder / "stage", NOW)
        save_online_keys(self.stage.releases / "online", self.stage.online)
        self.authority = TlsAuthority.create(NOW)
        self.limits = limits or ServiceLimits(calls_per_minute=100_000, tend_s=0.05)
        self.members = {"car-1", "car-2"}
        self.tls = folder / "tls"
        save_server(self.tls, self.authority, self.authority.issue(("127.0.0.1",), NOW))

    def client_tls(self, name: str, authority: TlsAuthority | None = None) -> ClientTls:
        """What a vehicle of this name shows, signed by this CA."""
        key = ec.generate_private_key(ec.SECP256R1())
        signer = authority or self.authority
        return ClientTls(
            ca=_pem(self.authority.certificate),
            certificate=_pem(signer.certify_client(name, key.public_key(), NOW)),
            private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )

    @contextmanager
    def running(self) -> Iterator[str]:
        """The service; yields its address."""
        ready = threading.Event()
        ports: list[int] = []
        loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

        async def main() -> None:
            stop = asyncio.Event()
            loops.append((asyncio.get_running_loop(), stop))
            await serve(
                self.stage.releases,
                "127.0.0.1:0",
                TlsFiles(
                    certificate=self.tls / "server.pem",
                    private_key=self.tls / "server.key",
                    ca=self.tls / TLS_CA_CERTIFICATE,
                ),
                lambda name: name in self.members,
                limits=self.limits,
                lifetimes=self.stage.lifetimes,
                bounds=RolloutBounds(),
                stop=stop,
                on_port=lambda port: (ports.append(port), ready.set()),
            )

        thread = threading.Thread(target=asyncio.run, args=(main(),))
        thread.start()
        try:
            assert ready.wait(20)
            yield f"127.0.0.1:{ports[0]}"
        finally:
            loop, stop = loops[0]
            loop.call_soon_threadsafe(stop.set)
            thread.join(20)


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
