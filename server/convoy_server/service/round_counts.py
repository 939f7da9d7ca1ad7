"""Totals over a run's rounds.jsonl, each line read once, however often somebody asks."""

import os
from collections import Counter
from pathlib import Path

from convoy_protos.errors import SettingsError
from convoy_server.round_log import RoundRecord, from_line


class RunCounts:
    """Totals of one run so far.

    Attributes:
        outcomes: Rounds by outcome.
        rejections: Refused updates and evaluations by reason.
        wall_s: Seconds of all rounds.
        uplink_bytes: From vehicles.
        downlink_bytes: To vehicles.
        lost: Vehicles that never answered, once a round.
        unreadable: Lines that are no rounds.
    """

    def __init__(self) -> None:
        self._offset = 0
        self._file = 0
        self._begin()

    def read_on(self, path: Path) -> None:
        """Add the lines that were written since the last call; a line without its end waits.

        A file that was replaced, as a resumed run does, or cut is counted again from its start.
        """
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return
        with file:
            now = os.fstat(file.fileno())
            if now.st_ino != self._file or now.st_size < self._offset:
                self._file, self._offset = now.st_ino, 0
                self._begin()
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._add_line(line)

    def _begin(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.rejections: Counter[str] = Counter()
        self.wall_s = 0.0
        self.uplink_bytes = self.downlink_bytes = self.lost = self.unreadable = 0

    def _add_line(self, line: bytes) -> None:
        try:
            record = from_line(line.decode("utf-8", "replace"))
        except SettingsError:
            self.unreadable += 1
        else:
            self._add(record)

    def _add(self, record: RoundRecord) -> None:
        self.outcomes[record.outcome] += 1
        self.rejections.update(record.rejected)
        self.rejections.update(one.reason for one in record.evaluation_rejections)
        self.wall_s += record.wall_s
        self.uplink_bytes += record.uplink_bytes
        self.downlink_bytes += record.downlink_bytes
        self.lost += record.lost
