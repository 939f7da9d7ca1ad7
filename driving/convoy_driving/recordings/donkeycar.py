"""Donkeycar tub v2. Source: https://docs.donkeycar.com, and donkeycar/parts/tub_v2.py.

A tub is a folder:

manifest.json         five JSON lines: input names, types, user metadata, manifest metadata, and
                      {"paths": [...], "current_index": n, "max_len": 1000, "deleted_indexes": [...]}
catalog_N.catalog     one JSON object a line, the records N * max_len and following
images/               one JPEG a record, named in the record

`deleted_indexes` holds values of a record's `_index`. Donkeycar's own reader compares them with the
record's position, which goes wrong as soon as a catalog is missing.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from convoy_driving.data_config import DataConfig
from convoy_driving.errors import BrokenRecordingError
from convoy_driving.recordings.reader import (
    Sample,
    Skipped,
    SkipReason,
    files_in,
    identify_content,
    identify_files,
)

MANIFEST = "manifest.json"
IMAGES = "images"
IMAGE_KEY = "cam/image_array"
ANGLE_KEY = "user/angle"
THROTTLE_KEY = "user/throttle"
MODE_KEY = "user/mode"


@dataclass(frozen=True, slots=True)
class _Manifest:
    """The fifth line of manifest.json."""

    catalogs: tuple[str, ...]
    deleted_indexes: frozenset[int]
    current_index: int
    max_len: int


class DonkeycarReader:
    """Reads one tub."""

    format: ClassVar[str] = "donkeycar"

    def __init__(self, path: Path, config: DataConfig) -> None:  # noqa: ARG002 - of the protocol
        self._path = path

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A folder with a manifest.json whose last line names catalogs."""
        return (path / MANIFEST).is_file()

    def items(self) -> Iterator[Sample | Skipped]:
        """Every record of every catalog, in order."""
        manifest = self._manifest()
        for number, name in enumerate(manifest.catalogs):
            catalog = self._path / name
            if not catalog.is_file():
                yield Skipped(SkipReason.CATALOG_MISSING, _records_of_catalog(manifest, number))
                continue
            with catalog.open("rb") as lines:
                for line in lines:
                    if line.strip():
                        yield self._item(line, manifest.deleted_indexes)

    def identify(self, digest: "hashlib._Hash") -> None:
        """Manifest and catalogs by content; pictures by name, size and modification time."""
        identify_content(digest, self._path / MANIFEST)
        for name in self._manifest().catalogs:
            catalog = self._path / name
            if catalog.is_file():
                identify_content(digest, catalog)
        identify_files(digest, files_in(self._path / IMAGES))

    def _item(self, line: bytes, deleted: frozenset[int]) -> Sample | Skipped:
        try:
            record = json.loads(line)
            index = int(record["_index"])
            image = self._path / IMAGES / Path(str(record[IMAGE_KEY])).name
            steering, throttle = float(record[ANGLE_KEY]), float(record[THROTTLE_KEY])
            time_ms = record.get("_timestamp_ms")
            time_s = None if time_ms is None else float(time_ms) / 1000
        except (KeyError, TypeError, ValueError):
            return Skipped(SkipReason.MALFORMED_RECORD)
        if index in deleted:
            return Skipped(SkipReason.MARKED_DELETED)
        try:
            picture = image.read_bytes()
        except FileNotFoundError:
            return Skipped(SkipReason.IMAGE_MISSING)
        return Sample(
            picture=picture,
            steering=steering,
            throttle=throttle,
            time_s=time_s,
            mode=str(record.get(MODE_KEY, "user")),
            session=str(record.get("_session_id", "")),
        )

    def _manifest(self) -> _Manifest:
        path = self._path / MANIFEST
        try:
            manifest = json.loads(path.read_bytes().splitlines()[4])
            names = tuple(Path(name).name for name in manifest["paths"])
            deleted = frozenset(int(index) for index in manifest.get("deleted_indexes", []))
            current_index = int(manifest.get("current_index", 0))
            max_len = int(manifest.get("max_len", 1000))
        except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise BrokenRecordingError(
                f"{path}: expected five JSON lines, the fifth naming the catalogs; "
                "copy the tub again, or recreate the manifest with `donkey tubclean`"
            ) from error
        return _Manifest(names, deleted, current_index, max_len)


def _records_of_catalog(manifest: _Manifest, number: int) -> int:
    """How many records a catalog holds when it is there: max_len, the last one perhaps fewer."""
    first = number * manifest.max_len
    return max(1, min(manifest.max_len, manifest.current_index - first))
