"""How much the agent has moved over the network this month, kept in STATE/traffic.json."""

import json
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from convoy_privacy.key_files import write_file


class TrafficLedger:
    """Bytes by calendar month; any thread may add."""

    def __init__(
        self, path: Path, local_time: Callable[[], datetime] = lambda: datetime.now().astimezone()
    ) -> None:
        """Go on from what the file says; a damaged one counts as empty."""
        self._path = path
        self._local_time = local_time
        self._lock = threading.Lock()
        self._month, self._bytes = _read(path)

    def add(self, byte_count: int) -> None:
        """Count what has gone over the network, both ways."""
        with self._lock:
            self._turn_page()
            self._bytes += byte_count

    def megabytes(self) -> float:
        """Of this month, in 10^6 bytes."""
        with self._lock:
            self._turn_page()
            return self._bytes / 1e6

    def save(self) -> None:
        """Write it down.

        Raises:
            FleetFolderError: The disk refuses.
        """
        with self._lock:
            content = json.dumps({"month": self._month, "bytes": self._bytes}).encode()
        write_file(self._path, content)

    def _turn_page(self) -> None:
        month = self._local_time().strftime("%Y-%m")
        if month != self._month:
            self._month, self._bytes = month, 0


def _read(path: Path) -> tuple[str, int]:
    try:
        table = json.loads(path.read_bytes())
        return str(table["month"]), int(table["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0
