"""Where the released files stand, and how new ones take their place.

    OUT/release/           what vehicles may have; whole at any moment
    OUT/release.refused/   the last candidate that a gate refused, to look at
    OUT/release.previous/  the release before, for the blink in which the new one takes its place
    OUT/.unfinished-release/  a candidate while it is built

A directory cannot be replaced in one step, only renamed. A crash between the two renames leaves
`release.previous` and no `release`: the next call puts it back.
"""

import os
from pathlib import Path
from typing import Final

from convoy_server.errors import StorageError
from convoy_server.storage import TEMPORARY_PREFIX, make_directory, remove

RELEASE: Final = "release"
REFUSED: Final = "release.refused"
PREVIOUS: Final = "release.previous"


def open_candidate(out: Path) -> Path:
    """An empty folder to build in; repairs what a crash left behind.

    Raises:
        StorageError: The run directory cannot be written.
    """
    make_directory(out)
    if (out / PREVIOUS).is_dir() and not (out / RELEASE).is_dir():
        _rename(out / PREVIOUS, out / RELEASE)
    remove(out / PREVIOUS)
    candidate = out / (TEMPORARY_PREFIX + RELEASE)
    remove(candidate)
    make_directory(candidate)
    return candidate


def accept(candidate: Path, out: Path) -> Path:
    """Put the candidate in the place of the release; returns where it stands.

    Raises:
        StorageError: The run directory cannot be written.
    """
    release = out / RELEASE
    if release.is_dir():
        _rename(release, out / PREVIOUS)
    _rename(candidate, release)
    remove(out / PREVIOUS)
    remove(out / REFUSED)
    return release


def refuse(candidate: Path, out: Path) -> Path:
    """Lay the candidate aside; the release stays as it is. Returns where the candidate stands.

    Raises:
        StorageError: The run directory cannot be written.
    """
    refused = out / REFUSED
    remove(refused)
    _rename(candidate, refused)
    return refused


def _rename(source: Path, target: Path) -> None:
    """Rename within one directory and see to it that the disk knows."""
    try:
        source.replace(target)
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(target, error) from error
