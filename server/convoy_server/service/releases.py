"""The release service as a process of `convoy server`: what vehicles fetch, hear and report.

python -m convoy_server.service.releases server.toml
"""

import asyncio
import logging
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from convoy_privacy.tls_files import TLS_CA_CERTIFICATE
from convoy_protos.errors import ConvoyError
from convoy_server.releases.release_service import ServiceLimits, TlsFiles, serve
from convoy_server.releases.settings import load_settings
from convoy_server.service.passes import PASSES_FOLDER, MemberList, pass_authority
from convoy_server.service.server_config import ServerConfig, load_server_config
from convoy_server.service.structured_log import set_up_log

logger = logging.getLogger(__name__)


async def serve_releases(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConvoyError: A key, the repository or the address cannot be used.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    pass_authority(config.state_folder, datetime.now(UTC))
    releases, host = Path(config.releases.folder), config.releases.host
    settings = load_settings(releases)
    await serve(
        releases,
        f"{host}:{config.releases.port}",
        TlsFiles(
            certificate=Path(config.fleet_door.certificate),
            private_key=Path(config.fleet_door.key),
            ca=config.state_folder / PASSES_FOLDER / TLS_CA_CERTIFICATE,
        ),
        MemberList(Path(config.identity.aggregator)).has,
        limits=ServiceLimits(),
        lifetimes=settings.days,
        bounds=settings.rollout,
        stop=stop,
        on_port=lambda port: logger.info("releases listen on %s:%d", host, port),
    )


def main(config_path: Path) -> None:
    """Serve what server.toml describes.

    Raises:
        ConvoyError: As `serve_releases`, or the configuration cannot be used.
    """
    config = load_server_config(config_path)
    set_up_log(config.log, "releases")
    asyncio.run(serve_releases(config))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except ConvoyError as fault:
        sys.exit(f"releases: {fault}")
