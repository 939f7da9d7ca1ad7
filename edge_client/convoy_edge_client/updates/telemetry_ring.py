"""Telemetry that waits to be sent: a bounded ring in SQLite. One process drives and adds, another sends.

FOLDER/telemetry.sqlite   lines(number, line): JSON; the oldest give way
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from convoy_edge_client.errors import ReleaseStoreError
from convoy_protos.errors import SettingsError
from convoy_protos.settings import from_table, to_table

RING_FILE: Final = "telemetry.sqlite"
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS lines (number INTEGER PRIMARY KEY AUTOINCREMENT, line TEXT)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryLine:
    """What an interval of driving came to.

    Attributes:
        time_s: Of its end, seconds since 1970 by the vehicle's clock.
        release: That drove; "factory" is the factory's.
        provider: That computed it.
        state: Of the update.
        frames: That were answered.
        missed: That took longer than their period.
        failures: That the model in charge did not answer.
        p50_ms: Median time of a frame.
        p99_ms: 99th percentile.
        longest_ms: Of a frame.
        steering_bins: Frames by their steering, 15 bins from full left to full right.
        mean_entropy: Of the class probabilities, in bits.
        entropy_drift: The same, less that of the release's first interval in this process.
        shadow_compared: Frames that a candidate has looked at.
        shadow_difference: Mean difference of its steering.
        temperature_c: Of the hottest sensor; None where there is none.
        reason: How the state came about.
        first_failure: Of the candidate that was tried last.
    """

    time_s: float
    release: str
    provider: str
    state: str
    frames: int
    missed: int
    failures: int
    p50_ms: float
    p99_ms: float
    longest_ms: float
    steering_bins: tuple[int, ...]
    mean_entropy: float
    entropy_drift: float
    shadow_compared: int = 0
    shadow_difference: float = 0.0
    temperature_c: float | None = None
    reason: str = ""
    first_failure: str = ""


class TelemetryRing:
    """The ring of a vehicle's folder; any thread or process may use it."""

    def __init__(self, folder: Path, most_rows: int) -> None:
        """Nothing is opened yet.

        Args:
            folder: The vehicle's folder of releases.
            most_rows: That are kept.
        """
        self._path = folder / RING_FILE
        self._most_rows = most_rows

    def add(self, line: TelemetryLine) -> None:
        """Keep a line.

        Raises:
            ReleaseStoreError: The disk refuses.
        """
        text = json.dumps(to_table(line), allow_nan=False)
        with self._open() as book:
            number = book.execute("INSERT INTO lines (line) VALUES (?)", (text,)).lastrowid or 0
            book.execute("DELETE FROM lines WHERE number <= ?", (number - self._most_rows,))

    def oldest(self, most: int) -> list[tuple[int, TelemetryLine]]:
        """The lines that wait longest, with their numbers; what cannot be read is left out.

        Raises:
            ReleaseStoreError: The disk refuses.
        """
        with self._open() as book:
            rows = book.execute(
                "SELECT number, line FROM lines ORDER BY number LIMIT ?", (most,)
            ).fetchall()
        return [(number, line) for number, text in rows if (line := _parsed(text)) is not None]

    def forget(self, highest: int) -> None:
        """Delete the lines up to a number: the server has them.

        Raises:
            ReleaseStoreError: The disk refuses.
        """
        with self._open() as book:
            book.execute("DELETE FROM lines WHERE number <= ?", (highest,))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=5.0)) as book, book:
                book.execute(_TABLE)
                yield book
        except (sqlite3.Error, OSError) as error:
            raise ReleaseStoreError(
                f"{self._path}: {error}; delete the file if it stays so"
            ) from error


def _parsed(text: str) -> TelemetryLine | None:
    try:
        return from_table(TelemetryLine, json.loads(text), RING_FILE)
    except (ValueError, SettingsError):
        return None
