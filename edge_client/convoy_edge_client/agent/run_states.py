"""What the agent knows of each run between two messages: secrets of sums, the update that waits.

One private file a run in STATE/runs, replaced as a whole after every message that was answered.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flwr.app import RecordDict

from convoy_privacy.key_files import read_file, write_file
from convoy_protos.flower_internals import record_bytes, record_from_bytes

KEEP_S: Final = 24 * 3600.0
"""A run that was silent for so long is over: its secrets go."""


class RunStates:
    """A folder with one file a run."""

    def __init__(self, folder: Path, unix_s: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._unix_s = unix_s

    def load(self, run_id: int) -> RecordDict:
        """The state of a run; empty for a new one."""
        path = self._path(run_id)
        if not path.exists():
            return RecordDict()
        return record_from_bytes(read_file(path, private=True))

    def save(self, run_id: int, state: RecordDict) -> None:
        """Replace it; do this before the answer goes.

        Raises:
            FleetFolderError: The disk refuses.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(self._path(run_id), record_bytes(state), private=True)

    def forget_old(self) -> None:
        """Delete what belongs to runs that are over."""
        for path in self._folder.glob("*.state"):
            if self._unix_s() - path.stat().st_mtime > KEEP_S:
                path.unlink()

    def _path(self, run_id: int) -> Path:
        return self._folder / f"{run_id & (2**64 - 1):016x}.state"
