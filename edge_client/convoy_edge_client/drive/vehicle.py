"""A vehicle that drives: its wheel, its telemetry, and a process beside it that fetches releases."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Final

from convoy_edge_client.drive.drive_toml import DriveToml
from convoy_edge_client.drive.telemetry import TelemetryWriter
from convoy_edge_client.drive.wheel import Wheel
from convoy_edge_client.updates.telemetry_ring import TelemetryRing
from convoy_edge_client.updates.update_file import UpdateFile

logger = logging.getLogger(__name__)

_UPDATER: Final = "convoy_edge_client.updates.process"


class Vehicle:
    """What drives, for whoever has the frames."""

    def __init__(self, config: DriveToml, path: Path, *, updates: bool = True) -> None:
        """Load the model that drives.

        Args:
            config: drive.toml.
            path: Of drive.toml, which the process beside reads too.
            updates: Whether that process is started; it is not where no repository is named.

        Raises:
            FactoryModelError: No model can be loaded.
        """
        self._path = path
        self._updates = updates and config.releases.is_on
        self._process: subprocess.Popen[bytes] | None = None
        folder = config.releases.folder_path
        ring = TelemetryRing(folder, config.drive.telemetry_rows)
        self.wheel = Wheel(
            UpdateFile(folder), Path(config.factory), config.drive, TelemetryWriter(ring)
        )

    def start(self) -> None:
        """Look after states and releases from now on."""
        self.wheel.start()
        if self._updates:
            # Fetching needs gRPC, TUF and time: none of it belongs into the process that drives.
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", _UPDATER, str(self._path)], stdin=subprocess.PIPE
            )

    def close(self) -> None:
        """End threads and processes."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate()
        self.wheel.close()
