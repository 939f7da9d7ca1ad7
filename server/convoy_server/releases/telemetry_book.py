"""How vehicles drive, on disk: their newest lines of telemetry, each once.

RELEASES/telemetry.sqlite holds names of vehicles and is never published.
"""

import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from convoy_protos.errors import MalformedMessageError
from convoy_protos.v1.release_pb2 import TelemetryLine
from convoy_server.errors import ReleaseFolderError

TELEMETRY_FILE: Final = "telemetry.sqlite"
KEPT_PER_VEHICLE: Final = 1440
"""A day of minutes; a vehicle that sends without end overwrites its own lines only."""
MAX_LINES: Final = 64
MAX_TEXT_BYTES: Final = 500
PAUSE_S: Final = 30.0
"""What a vehicle is asked to wait after a batch that was full no more."""

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS lines (
    vehicle TEXT NOT NULL, number INTEGER NOT NULL, line BLOB NOT NULL, PRIMARY KEY (vehicle, number)
) WITHOUT ROWID
"""


class TelemetryBook:
    """Lines by vehicle and number."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet.

        Args:
            path: The file; made when the first line comes.
        """
        self._path = path

    def add(self, vehicle: str, lines: Sequence[TelemetryLine]) -> int:
        """Keep lines; the same again changes nothing.

        Returns:
            The highest number among them.

        Raises:
            MalformedMessageError: A line is none; nothing is kept.
            ReleaseFolderError: The disk refuses.
        """
        if not 1 <= len(lines) <= MAX_LINES:
            raise MalformedMessageError(f"expected 1 to {MAX_LINES} lines, got {len(lines)}")
        for line in lines:
            check_line(line)
        highest = max(line.number for line in lines)
        rows = [(vehicle, line.number, line.SerializeToString()) for line in lines]
        with self._open() as book:
            book.executemany("INSERT OR IGNORE INTO lines VALUES (?, ?, ?)", rows)
            book.execute(
                "DELETE FROM lines WHERE vehicle = ? AND number <= ("
                "SELECT number FROM lines WHERE vehicle = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (vehicle, vehicle, KEPT_PER_VEHICLE),
            )
        return int(highest)

    def newest(self, vehicle: str, most: int = 1) -> list[TelemetryLine]:
        """Of one vehicle, the newest first.

        Raises:
            ReleaseFolderError: The file is broken.
        """
        if not self._path.exists():
            return []
        with self._open() as book:
            rows = book.execute(
                "SELECT line FROM lines WHERE vehicle = ? ORDER BY number DESC LIMIT ?",
                (vehicle, most),
            )
            return [TelemetryLine.FromString(row[0]) for row in rows]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=10.0)) as book, book:
                book.execute(_TABLE)
                yield book
        except sqlite3.Error as error:
            raise ReleaseFolderError(self._path, str(error)) from error


def check_line(line: TelemetryLine) -> None:
    """Refuse what no vehicle of ours sends.

    Raises:
        MalformedMessageError: Names the field.
    """
    if not 0 < line.number < 1 << 63:
        raise MalformedMessageError(f"number must be in 1..2^63-1, got {line.number}")
    for name in ("release", "provider", "state", "reason", "first_failure"):
        text = getattr(line, name)
        if len(text.encode()) > MAX_TEXT_BYTES or not text.isprintable():
            raise MalformedMessageError(
                f"{name} must be one line of at most {MAX_TEXT_BYTES} bytes"
            )
    for name in (
        "time_s",
        "p50_ms",
        "p99_ms",
        "longest_ms",
        "mean_entropy",
        "entropy_drift",
        "shadow_difference",
        "temperature_c",
    ):
        if not math.isfinite(getattr(line, name)):
            raise MalformedMessageError(f"{name} must be finite")
    if len(line.steering_bins) > MAX_LINES:
        raise MalformedMessageError(f"steering_bins must be at most {MAX_LINES}")
