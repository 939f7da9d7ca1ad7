"""Bytes from a source to the disk: bounded in length and time, resumed where they broke off.

What came is kept in FILE.part. A cut link leaves it, and the next attempt asks for the rest only; once the
whole file is there its hash decides, and a part that does not fit is thrown away.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    LengthOrHashMismatchError,
    SlowRetrievalError,
)
from tuf.api.metadata import TargetFile
from tuf.ngclient import FetcherInterface

from convoy_edge_client.errors import (
    Refusal,
    ReleaseRefusedError,
    ReleaseStoreError,
    RepositoryDownError,
)
from convoy_edge_client.releases.byte_source import ByteSource, MissingFileError
from convoy_edge_client.releases.pace import TransferLimits, is_too_slow
from convoy_privacy.releases.layout import stored_path

PART_SUFFIX: Final = ".part"

_HTTP_NOT_FOUND: Final = 404


class SourceFetcher(FetcherInterface):
    """Lets python-tuf read metadata from a source; the "URL" is a path in the repository."""

    def __init__(
        self,
        source: ByteSource,
        limits: TransferLimits,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is read yet.

        Args:
            source: Of the bytes.
            limits: Of each file.
            now_s: A clock that never goes back.
        """
        self._source = source
        self._limits = limits
        self._now_s = now_s

    def _fetch(self, url: str) -> Iterator[bytes]:
        # python-tuf translates only what is raised before the first chunk.
        try:
            yield from paced(self._source.read(url, 0), self._limits, self._now_s)
        except MissingFileError as error:
            raise DownloadHTTPError(str(error), _HTTP_NOT_FOUND) from error
        except RepositoryDownError as error:
            raise DownloadError(str(error)) from error


def fetch_target(
    source: ByteSource,
    target: TargetFile,
    place: Path,
    limits: TransferLimits,
    now_s: Callable[[], float] = time.monotonic,
) -> None:
    """Bring one file that signed metadata describes.

    Args:
        source: Of the bytes.
        target: Its path, length and hash, out of signed metadata.
        place: Where it shall be; it appears there whole and verified, or not at all.
        limits: Of the transfer.
        now_s: A clock that never goes back.

    Raises:
        ReleaseRefusedError: The bytes are not what was signed; what came is thrown away.
        RepositoryDownError: The link broke or was too slow; what came is kept.
        ReleaseStoreError: The disk refuses.
    """
    part = place.with_name(place.name + PART_SUFFIX)
    path = stored_path(target.path, target.hashes["sha256"])
    try:
        _receive(part, target.length, lambda have: paced(source.read(path, have), limits, now_s))
        with part.open("rb") as file:
            target.verify_length_and_hashes(file)
            os.fsync(file.fileno())
        part.replace(place)
        sync_folder(place.parent)
    except LengthOrHashMismatchError as error:
        part.unlink(missing_ok=True)
        raise ReleaseRefusedError(
            Refusal.ALTERED, f"{target.path} is not what was signed; the next try starts anew"
        ) from error
    except SlowRetrievalError as error:
        raise RepositoryDownError(f"{target.path}: {error}; what came is kept") from error
    except OSError as error:
        # Half a file on a full disk helps nobody: give the room back.
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise ReleaseStoreError(
            f"{error.filename or place}: {error.strerror}; make room or mend the disk"
        ) from error


def paced(
    chunks: Iterator[bytes], limits: TransferLimits, now_s: Callable[[], float]
) -> Iterator[bytes]:
    """The chunks, as long as they come fast enough.

    Raises:
        SlowRetrievalError: They do not.
    """
    started_s, received = now_s(), 0
    for chunk in chunks:
        received += len(chunk)
        elapsed_s = now_s() - started_s
        if is_too_slow(received, elapsed_s, limits):
            raise SlowRetrievalError(f"{received} bytes in {elapsed_s:.0f} s are too slow")
        yield chunk


def sync_folder(folder: Path) -> None:
    """See to it that the disk knows of a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _receive(part: Path, length: int, rest: Callable[[int], Iterator[bytes]]) -> None:
    """Append to the part until it has the signed length; never a byte more.

    Args:
        part: What came so far.
        length: That was signed.
        rest: The chunks from an offset on.
    """
    with part.open("ab") as file:
        have = file.tell()
        if have >= length:
            return  # the hash decides
        for chunk in rest(have):
            have += len(chunk)
            if have > length:
                break
            file.write(chunk)
    if have != length:
        part.unlink(missing_ok=True)
        fault = Refusal.TOO_LONG if have > length else Refusal.ALTERED
        raise ReleaseRefusedError(
            fault, f"signed are {length} bytes, sent were {'more' if have > length else have}"
        )
