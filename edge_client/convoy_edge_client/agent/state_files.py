"""Files of the state folder: each whole or not at all, readable by the agent's user only.

What is durable is on the disk when a call returns, which takes some milliseconds. The rest survives the
death of the process, and a power cut a few seconds later.
"""

import os
from pathlib import Path
from typing import Final

from convoy_privacy.errors import FleetFolderError
from convoy_privacy.key_files import write_file

_PRIVATE: Final = 0o600


def keep(path: Path, data: bytes, *, durable: bool) -> None:
    """Create or replace a file.

    Raises:
        FleetFolderError: The disk refuses.
    """
    if durable:
        write_file(path, data, private=True)
        return
    temporary = path.with_name(f".quick-{path.name}")
    try:
        temporary.unlink(missing_ok=True)  # of a crash
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(temporary, flags, _PRIVATE), "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError as error:
        raise FleetFolderError(path, f"{error.strerror}") from error


def append(path: Path, data: bytes, *, durable: bool) -> None:
    """Add to a file that is there; a crash leaves the addition whole, torn or absent.

    Raises:
        FleetFolderError: The disk refuses.
    """
    try:
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
    except OSError as error:
        raise FleetFolderError(path, f"{error.strerror}") from error
