"""What a recording gives, whatever its format; and how a path finds its reader.

A reader is a class registered under the entry-point group `convoy.recordings`; docs/recordings.md
shows how to write one. Steering is -1 full left to +1 full right, throttle -1 full reverse to +1
full ahead: a reader converts.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import entry_points
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from convoy_driving.data_config import DataConfig
from convoy_driving.errors import NotARecordingError

ENTRY_POINT_GROUP = "convoy.recordings"

Picture = bytes | NDArray[np.uint8]
"""An encoded picture (JPEG, PNG), or one decoded already: uint8 (H, W, 3), RGB."""


class SkipReason(str, Enum):  # noqa: UP042 - Python 3.10 has no StrEnum
    """Why a frame cannot be used; these are the keys of `skipped` in a recording's check."""

    __str__ = str.__str__

    MARKED_DELETED = "marked_deleted"
    IMAGE_MISSING = "image_missing"
    CATALOG_MISSING = "catalog_missing"
    UNDECODABLE = "undecodable"
    MODE_NOT_USER = "mode_not_user"
    MALFORMED_RECORD = "malformed_record"
    VALUE_NOT_FINITE = "value_not_finite"
    VALUE_OUT_OF_RANGE = "value_out_of_range"
    NO_COMMAND = "no_command"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One frame and what the driver did.

    Attributes:
        picture: Encoded bytes, or RGB uint8 (H, W, 3).
        steering: -1 full left to +1 full right.
        throttle: -1 full reverse to +1 full ahead.
        time_s: Seconds since any fixed moment; None where the recording does not say.
        mode: Who drove: "user" is a person, anything else an autopilot.
        session: Changes where the recorder was started anew; a change starts a new lap.
        training_only: Never held back, for example a side camera with corrected steering.
    """

    picture: Picture
    steering: float
    throttle: float
    time_s: float | None = None
    mode: str = "user"
    session: str = ""
    training_only: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """Frames that a reader knows of and cannot give."""

    reason: str
    count: int = 1


class RecordingReader(Protocol):
    """Reads one recording of one format; built with its path and the settings."""

    format: ClassVar[str]

    def __init__(self, path: Path, config: DataConfig) -> None: ...

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether this path is a recording of this format; looks, but does not read it through."""
        ...

    def items(self) -> Iterator[Sample | Skipped]:
        """Every frame in the order of recording, one in memory at a time.

        Raises:
            RecordingError: The recording cannot be read at all; the message says the way out.
        """
        ...

    def identify(self, digest: "hashlib._Hash") -> None:
        """Feed the digest with what changes when the recording changes."""
        ...


@dataclass(frozen=True, slots=True)
class RecordingRef:
    """A recording that was found.

    Attributes:
        path: Its folder or file.
        vehicle_id: The name of its folder: one recording, one vehicle.
        reader: The class that reads it.
    """

    path: Path
    vehicle_id: str
    reader: type[RecordingReader]


def find_recordings(paths: Sequence[Path]) -> list[RecordingRef]:
    """The recordings behind the paths, in order; a folder of recordings is a fleet.

    Args:
        paths: Each is a recording, or a folder with recordings up to two levels down.

    Raises:
        NotARecordingError: Nothing was found behind one of the paths.
    """
    readers = installed_readers()
    found: list[RecordingRef] = []
    for path in paths:
        below = _recordings_below(path, readers, levels=2)
        if not below:
            raise NotARecordingError(_not_found(path, readers))
        found += below
    return _with_unique_vehicles(found)


def reader_of(path: Path) -> type[RecordingReader]:
    """The class that reads this very path.

    Raises:
        NotARecordingError: No reader recognises it.
    """
    readers = installed_readers()
    for reader in readers.values():
        if reader.recognises(path):
            return reader
    raise NotARecordingError(_not_found(path, readers))


def open_recording(path: Path, config: DataConfig) -> RecordingReader:
    """A reader of this very path.

    Raises:
        NotARecordingError: No reader recognises it.
    """
    return reader_of(path)(path, config)


def installed_readers() -> dict[str, type[RecordingReader]]:
    """Every registered reader by name, in alphabetical order."""
    points = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    return {point.name: point.load() for point in points}


def identify_content(digest: "hashlib._Hash", path: Path) -> None:
    """Feed the digest with a file's name and bytes; for the small files that index a recording."""
    digest.update(f"{path.name}\0".encode())
    digest.update(hashlib.sha256(path.read_bytes()).digest())


def identify_files(digest: "hashlib._Hash", paths: Iterable[Path]) -> None:
    """Feed the digest with names, sizes and modification times, in any order; for pictures, bags.

    Reading every picture again would cost as much as the cache saves. The order does not matter
    (the single digests are added up), so a folder of 500,000 pictures is never held in memory.
    """
    total = 0
    for path in paths:
        status = path.stat()
        fact = f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}"
        total += int.from_bytes(hashlib.sha256(fact.encode()).digest(), "little")
    digest.update((total % 2**256).to_bytes(32, "little"))


def files_in(folder: Path) -> Iterator[Path]:
    """The files of a folder, in no order; pathlib would list half a million names first."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file():
                    yield Path(entry.path)


def _recordings_below(
    path: Path, readers: dict[str, type[RecordingReader]], levels: int
) -> list[RecordingRef]:
    for reader in readers.values():
        if reader.recognises(path):
            return [RecordingRef(path, _vehicle_name(path), reader)]
    if levels == 0 or not path.is_dir():
        return []
    folders = sorted(child for child in path.iterdir() if child.is_dir())
    return [ref for folder in folders for ref in _recordings_below(folder, readers, levels - 1)]


def _vehicle_name(path: Path) -> str:
    resolved = path.resolve()
    return resolved.name if resolved.is_dir() else resolved.parent.name


def _with_unique_vehicles(found: list[RecordingRef]) -> list[RecordingRef]:
    """Two recordings of one name are two vehicles: the second becomes name-2."""
    taken: set[str] = set()
    unique: list[RecordingRef] = []
    for ref in found:
        name, number = ref.vehicle_id, 1
        while name in taken:
            number += 1
            name = f"{ref.vehicle_id}-{number}"
        taken.add(name)
        unique.append(RecordingRef(ref.path, name, ref.reader))
    return unique


def _not_found(path: Path, readers: dict[str, type[RecordingReader]]) -> str:
    if not path.exists():
        return f"{path}: no such file or folder"
    return (
        f"{path}: no recording here or up to two folders below; expected a Donkeycar tub "
        "(manifest.json), a driving_log.csv or a ROS 2 bag (metadata.yaml); "
        f"installed readers: {', '.join(readers) or 'none'}"
    )
