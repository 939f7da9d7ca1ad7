"""How files reach the disk: whole or not at all, and there to stay once a call returns.

Everything the server keeps goes through these few functions. POSIX: a file is safe after fsync of
the file and of its directory; rename within one directory is atomic. Any failure of the system
becomes a StorageError that names the path.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from convoy_server.errors import StorageError

TEMPORARY_PREFIX = ".unfinished-"
"""What a crash may leave behind; deleted when the directory is opened again."""


def write_file(path: Path, data: bytes) -> None:
    """Create or replace a file atomically."""
    fill_file(path, lambda temporary: _write(temporary, data))


def fill_file(path: Path, fill: Callable[[Path], None]) -> None:
    """Create or replace a file atomically with what `fill` writes to the path it is given."""
    temporary = path.with_name(TEMPORARY_PREFIX + path.name)
    try:
        fill(temporary)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        _give_back_room(temporary)
        raise StorageError(path, error) from error


def append_line(path: Path, line: str) -> None:
    """Add one line; a crash leaves it whole, torn or absent."""
    try:
        created = not path.exists()
        with path.open("ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if created:
            _sync(path.parent)
    except OSError as error:
        raise StorageError(path, error) from error


def make_directory(path: Path) -> None:
    """Create a directory and its parents, if they are not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(path, error) from error


def fill_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Create a directory atomically with the files that `fill` writes into the one it is given.

    One of the same name, left by an attempt that was never pointed to, is replaced.
    """
    temporary = path.with_name(TEMPORARY_PREFIX + path.name)
    try:
        _delete(temporary)
        temporary.mkdir(parents=True)
        fill(temporary)
        for file in sorted(temporary.iterdir()):
            _sync(file)
        _sync(temporary)
        _delete(path)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        _give_back_room(temporary)
        raise StorageError(path, error) from error


def remove(path: Path) -> None:
    """Delete a file or a directory with all that is in it; nothing there is fine."""
    try:
        _delete(path)
    except OSError as error:
        raise StorageError(path, error) from error


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _give_back_room(temporary: Path) -> None:
    with suppress(OSError):
        _delete(temporary)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
