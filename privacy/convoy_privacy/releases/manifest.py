"""The part of a release's manifest.json that signing and fetching need: which files belong to it.

    {"schema": "convoy.release/N", "accepted": true, "counter": 7,
     "files": {NAME: {"sha256": HEX, "bytes": N}}, ...}

The counter is a wish of whoever built it, and may be left out or 0; the signed entry's counts.

Whatever else stands in it is for those who build a release and those who drive it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from convoy_privacy.errors import ReleaseFormatError
from convoy_privacy.releases.layout import (
    MANIFEST,
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    check_counter_range,
    check_name,
    check_sha256,
)
from convoy_privacy.releases.signed_texts import parse_object

_SCHEMA: Final = re.compile(r"convoy\.release/\d{1,4}")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of a release.

    Attributes:
        sha256: Hexadecimal.
        length: Bytes.
    """

    sha256: str
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a release consists of.

    Attributes:
        accepted: Every gate passed.
        counter: That the files name; 0: none.
        files: By name, without the manifest itself.
    """

    accepted: bool
    counter: int
    files: Mapping[str, ListedFile]


def read_manifest(data: bytes) -> Manifest:
    """The files of a release.

    Raises:
        ReleaseFormatError: The text is no manifest, or names a file that could lead elsewhere.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ReleaseFormatError(f"{MANIFEST} has {len(data)} bytes, at most {MAX_MANIFEST_BYTES}")
    document = parse_object(data, MANIFEST)
    schema, files = document.get("schema"), document.get("files")
    if not isinstance(schema, str) or not _SCHEMA.fullmatch(schema):
        raise ReleaseFormatError(
            f"{MANIFEST}: expected schema convoy.release/N, got {schema!r:.40}"
        )
    if not isinstance(document.get("accepted"), bool):
        raise ReleaseFormatError(f'{MANIFEST}: "accepted" must be true or false')
    if not isinstance(files, dict) or not 1 <= len(files) <= MAX_FILES or MANIFEST in files:
        raise ReleaseFormatError(
            f'{MANIFEST}: "files" must name 1 to {MAX_FILES} files beside the manifest'
        )
    counter = document.get("counter", 0)
    if counter != 0 or isinstance(counter, bool):
        check_counter_range(counter)
    return Manifest(
        accepted=document["accepted"],
        counter=counter,
        files={check_name(name): _listed(name, entry) for name, entry in files.items()},
    )


def _listed(name: str, entry: Any) -> ListedFile:
    if not isinstance(entry, dict):
        raise ReleaseFormatError(f"{MANIFEST}: {name}: expected sha256 and bytes")
    digest, length = check_sha256(entry.get("sha256")), entry.get("bytes")
    if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length <= MAX_FILE_BYTES:
        raise ReleaseFormatError(f"{MANIFEST}: {name}: bytes must be in 0..{MAX_FILE_BYTES}")
    return ListedFile(digest, length)
