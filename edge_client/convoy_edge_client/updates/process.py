"""The process beside `convoy drive` that fetches and reports: `python -m ... DRIVE.toml`.

It ends with standard input, so that it does not outlive the one that started it. Where `convoy agent` updates
from the same folder already, it leaves it alone and looks again later.
"""

import logging
import os
import signal
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from convoy_edge_client.drive.drive_toml import DriveToml, load_drive_toml
from convoy_edge_client.releases.release_client import ClientTls
from convoy_edge_client.updates.updating import Updating, passes
from convoy_protos.errors import ConvoyError

logger = logging.getLogger(__name__)

_NICE: Final = 10
"""Driving comes first."""


def main() -> None:
    """Turn after turn until standard input ends."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Two of three signers are enough; that the third has not signed is no news at every check.
    logging.getLogger("tuf").setLevel(logging.WARNING)
    os.nice(_NICE)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; who started this ends it

    def wait_for_end() -> None:
        # Not through sys.stdin: a thread that holds its lock would spoil an orderly end.
        while os.read(0, 4096):
            pass
        stop.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    keep_updating(load_drive_toml(Path(sys.argv[1])), stop)


def keep_updating(config: DriveToml, stop: threading.Event) -> None:
    """Turn after turn until asked to stop; what goes wrong is logged and tried again.

    Args:
        config: drive.toml.
        stop: Set from outside.
    """
    access = config.access

    def tls() -> ClientTls:
        return passes(
            config.releases.folder_path,
            Path(access.identity),
            access.services,
            Path(access.root_certificates),
        )

    updating = Updating(config.releases, config.preflight, config.vehicle, tls)
    while not stop.is_set():
        try:
            updating.turn(datetime.now(timezone.utc))  # noqa: UP017 - Python 3.10 has no UTC
        except ConvoyError as error:
            logger.warning("releases: %s", error)
        stop.wait(config.releases.check_every_s)


if __name__ == "__main__":
    main()
