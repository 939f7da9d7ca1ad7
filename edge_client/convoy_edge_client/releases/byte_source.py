"""Where the bytes of a repository come from. Nothing a source says is trusted.

A source knows paths, offsets and chunks; what may be believed of the bytes is decided above it.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from convoy_edge_client.errors import Refusal, ReleaseRefusedError, RepositoryDownError
from convoy_privacy.errors import ReleaseFormatError
from convoy_privacy.releases.layout import CHUNK_BYTES, check_path


class ByteSource(Protocol):
    """A repository, wherever it is."""

    def read(self, path: str, offset: int) -> Iterator[bytes]:
        """A file's bytes from an offset on, in chunks; one that is at its end gives none.

        Args:
            path: Inside the repository, such as "metadata/timestamp.json".
            offset: Bytes that are here already.

        Raises:
            MissingFileError: The repository has no such file.
            RepositoryDownError: It cannot be asked now.
        """
        ...


class MissingFileError(ReleaseRefusedError):
    """The repository has no such file."""

    def __init__(self, path: str) -> None:
        super().__init__(Refusal.MISSING, path)
        self.path = path

    def __str__(self) -> str:
        return f"missing: {self.path} is not in the repository"


class DepotSource:
    """A folder or a USB stick with a copy of the server's repository.

    Whoever prepared the stick is not trusted: what is no plain file inside the folder is not read.
    """

    def __init__(self, folder: Path) -> None:
        """Nothing is read yet.

        Args:
            folder: Holds metadata/ and targets/.
        """
        self._folder = folder

    def read(self, path: str, offset: int) -> Iterator[bytes]:
        """See ByteSource."""
        try:
            inside = self._folder.resolve()
            file_path = (inside / check_path(path)).resolve()
        except ReleaseFormatError as error:
            raise ReleaseRefusedError(Refusal.MALFORMED, str(error)) from error
        except (OSError, RuntimeError) as error:  # a ring of links
            raise MissingFileError(path) from error
        if not inside.is_dir():
            raise RepositoryDownError(f"{self._folder}: not there; plug the depot's disk in again")
        if not file_path.is_relative_to(inside):
            raise MissingFileError(path)
        return self._chunks(path, file_path, offset)

    def _chunks(self, path: str, file_path: Path, offset: int) -> Iterator[bytes]:
        try:
            # Without waiting: a pipe on the stick must not hold the updater up.
            descriptor = os.open(file_path, os.O_RDONLY | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise MissingFileError(path)
                file.seek(offset)
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except (FileNotFoundError, IsADirectoryError) as error:
            raise MissingFileError(path) from error
        except OSError as error:
            raise RepositoryDownError(
                f"{file_path}: {error.strerror}; plug the depot's disk in again"
            ) from error
