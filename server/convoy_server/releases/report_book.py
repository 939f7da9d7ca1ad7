"""What vehicles said about releases, on disk: one row a report, the same report twice is one.

RELEASES/reports.sqlite holds names of vehicles and is never published.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from convoy_server.errors import ReleaseFolderError
from convoy_server.releases.rollout import Outcome, VehicleReport

BOOK_FILE: Final = "reports.sqlite"
KEPT_PER_VEHICLE: Final = 64
"""A vehicle that sends without end overwrites its own reports only."""

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS reports (
    vehicle TEXT NOT NULL, number INTEGER NOT NULL, release TEXT NOT NULL, outcome TEXT NOT NULL,
    detail TEXT NOT NULL, PRIMARY KEY (vehicle, number)
) WITHOUT ROWID
"""


class ReportBook:
    """Reports by vehicle and number."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet.

        Args:
            path: The file; made when the first report comes.
        """
        self._path = path

    def add(self, report: VehicleReport, detail: str = "") -> bool:
        """Keep a report.

        Args:
            report: Of a vehicle that is who it says.
            detail: Its reason, one line.

        Returns:
            Whether it is new; one with a number that is there already changes nothing.

        Raises:
            ReleaseFolderError: The disk refuses.
        """
        row = (report.vehicle, report.number, report.release, report.outcome.value, detail)
        with self._open() as book:
            added = book.execute("INSERT OR IGNORE INTO reports VALUES (?, ?, ?, ?, ?)", row)
            book.execute(
                "DELETE FROM reports WHERE vehicle = ? AND number <= ?",
                (report.vehicle, self._oldest_kept(book, report.vehicle)),
            )
            return added.rowcount == 1

    def reports(self, release: str) -> list[VehicleReport]:
        """All about one release.

        Raises:
            ReleaseFolderError: The file is broken.
        """
        if not self._path.exists():
            return []
        with self._open() as book:
            rows = book.execute(
                "SELECT vehicle, number, release, outcome FROM reports WHERE release = ?",
                (release,),
            )
            return [
                VehicleReport(
                    vehicle=vehicle, number=number, release=name, outcome=Outcome(outcome)
                )
                for vehicle, number, name, outcome in rows
            ]

    def _oldest_kept(self, book: sqlite3.Connection, vehicle: str) -> int:
        row = book.execute(
            "SELECT number FROM reports WHERE vehicle = ? ORDER BY number DESC LIMIT 1 OFFSET ?",
            (vehicle, KEPT_PER_VEHICLE),
        ).fetchone()
        return -1 if row is None else int(row[0])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=10.0)) as book, book:
                book.execute(_TABLE)
                yield book
        except sqlite3.Error as error:
            raise ReleaseFolderError(self._path, str(error)) from error
