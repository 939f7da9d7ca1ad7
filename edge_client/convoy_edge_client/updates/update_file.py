"""The record of the states on disk: whole at any moment, and one step at a time.

    FOLDER/update.json        the record; convoy.update/1
    FOLDER/update.lock        held for the milliseconds of a step: two processes take turns
    FOLDER/update.damaged     what could not be read, kept for whoever looks

A step is on the disk before its state is entered. A record that cannot be read costs what it knew, never the
drive: the factory's model drives.
"""

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from convoy_edge_client.errors import ReleaseStoreError
from convoy_edge_client.updates.states import RESTING, Record, State
from convoy_privacy.errors import FleetFolderError
from convoy_privacy.key_files import write_file
from convoy_protos.errors import MalformedMessageError, SettingsError
from convoy_protos.settings import from_table, to_table

logger = logging.getLogger(__name__)

UPDATE_FILE: Final = "update.json"

_LOCK: Final = "update.lock"
_DAMAGED: Final = "update.damaged"
_SCHEMA: Final = "convoy.update/1"
_MAX_BYTES: Final = 1 << 20


class UpdateFile:
    """The record of one vehicle; any thread of any process may use it."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read yet.

        Args:
            folder: The vehicle's folder of releases; made at the first step.
        """
        self._folder = folder
        self._path = folder / UPDATE_FILE

    @property
    def folder(self) -> Path:
        """The vehicle's folder of releases."""
        return self._folder

    def read(self) -> Record:
        """What is on the disk; a fresh record where there is none, or none that can be read."""
        try:
            return parse_record(self._path.read_bytes())
        except FileNotFoundError:
            return Record()
        except (OSError, MalformedMessageError) as error:
            logger.warning("%s: %s; the factory's model drives", self._path, error)
            return Record()

    def step(self, change: Callable[[Record], Record]) -> Record:
        """Take a step; on the disk when it returns.

        Args:
            change: Gives the next record; pure.

        Returns:
            The record as it is now.

        Raises:
            ReleaseStoreError: The disk refuses; the step was not taken.
        """
        try:
            with self._turn():
                record = self._whole()
                after = change(record)
                if after != record:
                    write_file(self._path, record_bytes(after))
                return after
        except FleetFolderError as error:
            raise ReleaseStoreError(f"{error}; make room or mend the disk") from error
        except OSError as error:
            raise ReleaseStoreError(
                f"{error.filename or self._path}: {error.strerror}; make room or mend the disk"
            ) from error

    def stamp(self) -> tuple[int, int]:
        """Changes whenever the record does; costs one look at the folder."""
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0)
        return (status.st_ino, status.st_mtime_ns)

    def _whole(self) -> Record:
        try:
            return parse_record(self._path.read_bytes())
        except FileNotFoundError:
            return Record()
        except MalformedMessageError as error:
            logger.warning("%s: %s; begun anew", self._path, error)
            self._path.replace(self._folder / _DAMAGED)
            return Record()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def record_bytes(record: Record) -> bytes:
    """The text of update.json."""
    table = {"schema": _SCHEMA, **to_table(record), "state": record.state.value}
    return json.dumps(table, indent=1).encode() + b"\n"


def parse_record(text: bytes) -> Record:
    """The record in a text.

    Raises:
        MalformedMessageError: It is none.
    """
    if len(text) > _MAX_BYTES:
        raise MalformedMessageError(f"expected at most {_MAX_BYTES} bytes, got {len(text)}")
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError(f"not JSON ({error})") from error
    if not isinstance(table, dict) or table.pop("schema", None) != _SCHEMA:
        raise MalformedMessageError(f"expected schema {_SCHEMA}")
    try:
        state = State(table.pop("state", None))
        record = replace(from_table(Record, table, UPDATE_FILE), state=state)
    except (SettingsError, ValueError) as error:
        raise MalformedMessageError(str(error)) from error
    if (record.candidate is None) != (state in RESTING or state is State.CHECKING):
        raise MalformedMessageError(f"state {state.value} does not fit the candidate")
    return record
