"""Decoded frames of one vehicle in one file, so that rounds never decode a picture twice.

section   bytes            content
frames    F * H * W * 3    uint8, RGB, in the order of recording; mapped, never read whole
labels    F * 21           steering float32, throttle float32, time float64, lap int32,
                           training_only uint8; one array after the other, little-endian
footer    J                JSON: counts, sizes, CRC-32 of every 4 MiB of what stands before it
trailer   16               "CVFRAME1", J as uint32, CRC-32 of the footer as uint32

The file is named by a digest of the recordings and of the settings that shape a frame: another
setting or a changed recording is another file. Indexes (manifest, catalogs, logs) count by their
content, pictures and bags by name, size and modification time. It is written under another name
and renamed when it is whole; a lock lets a second process wait for the first instead of doing the
work twice. A damaged file is found by its checksums and written anew.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import logging
import os
import struct
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from convoy_driving.data_config import DataConfig
from convoy_driving.errors import FrameCacheError
from convoy_driving.pictures import fit
from convoy_driving.recordings.reader import RecordingReader
from convoy_driving.recordings.screening import Tally, usable_frames

logger = logging.getLogger(__name__)

FORMAT = "convoy.frames/1"
CRC_BLOCK_BYTES = 4 << 20

_TRAILER = struct.Struct("<8sII")
_MAGIC = b"CVFRAME1"
_LABELS = (
    ("steering", "<f4"),
    ("throttle", "<f4"),
    ("time_s", "<f8"),
    ("lap", "<i4"),
    ("training_only", "u1"),
)
_LABEL_BYTES = sum(np.dtype(kind).itemsize for _, kind in _LABELS)
_NOT_IN_FRAMES = frozenset({"steering_threshold", "held_share", "blocks", "guard_frames"})
"""Settings that change what is made of the frames, not the frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedFrames:
    """What one cache file holds; F frames.

    Attributes:
        frames_NHWC: uint8, read-only, mapped from the file.
        steering_N: -1 full left to +1 full right.
        throttle_N: -1 full reverse to +1 full ahead.
        time_N: Seconds; NaN where the recording does not say.
        lap_N: Laps from 0, not decreasing.
        training_only_N: True for frames that must not be held back.
        skipped: Frames that could not be used, by reason.
    """

    frames_NHWC: NDArray[np.uint8]
    steering_N: NDArray[np.float32]
    throttle_N: NDArray[np.float32]
    time_N: NDArray[np.float64]
    lap_N: NDArray[np.int32]
    training_only_N: NDArray[np.bool_]
    skipped: dict[str, int]


class _DamagedFileError(Exception):
    """A cache file is not what was written; never leaves this module."""


def cached_frames(
    readers: Sequence[RecordingReader],
    config: DataConfig,
    cache_dir: Path,
    *,
    between_frames: Callable[[], None] = lambda: None,
) -> CachedFrames:
    """The frames of a vehicle's recordings, decoded now only if no valid cache file has them.

    Safe in several processes and threads at once, and after a crash at any moment.

    Args:
        readers: Of the recordings.
        config: How frames are made.
        cache_dir: Where the file is or will be.
        between_frames: Called after every decoded frame; may wait, or raise to leave it for later.

    Raises:
        RecordingError: A recording cannot be read.
        FrameCacheError: The cache folder cannot be written.
    """
    path = cache_dir / f"{cache_key(readers, config)}.frames"
    with contextlib.suppress(OSError, _DamagedFileError):
        return _open(path, config)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            return _open_or_build(path, readers, config, between_frames)
    except OSError as error:
        raise FrameCacheError(_why_not_written(path, error)) from error


def cache_key(readers: Sequence[RecordingReader], config: DataConfig) -> str:
    """Digest of the recordings and of every setting that shapes a frame."""
    settings = {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name not in _NOT_IN_FRAMES
    }
    digest = hashlib.sha256(f"{FORMAT}\n{json.dumps(settings, sort_keys=True)}\n".encode())
    for reader in readers:
        digest.update(f"{reader.format}\n".encode())
        reader.identify(digest)
    return digest.hexdigest()[:40]


def _open_or_build(
    path: Path,
    readers: Sequence[RecordingReader],
    config: DataConfig,
    between_frames: Callable[[], None],
) -> CachedFrames:
    try:
        return _open(path, config)  # whoever held the lock before may have built it
    except FileNotFoundError:
        pass
    except _DamagedFileError as error:
        logger.warning("%s is damaged (%s); decoding the recordings again", path, error)
    building = path.with_suffix(".building")  # the lock makes this name ours
    try:
        with building.open("wb") as file:
            _write(file, readers, config, between_frames)
            file.flush()
            os.fsync(file.fileno())
        building.replace(path)
    finally:
        building.unlink(missing_ok=True)
    return _open(path, config)


def _write(
    file: BinaryIO,
    readers: Sequence[RecordingReader],
    config: DataConfig,
    between_frames: Callable[[], None],
) -> None:
    """Stream the frames through; in memory are one frame and 21 bytes of labels a frame."""
    labels: dict[str, array[Any]] = {name: array(np.dtype(kind).char) for name, kind in _LABELS}
    checksums = _BlockChecksums()
    tally = Tally()
    for reader in readers:
        for frame in usable_frames(reader, config, tally):
            checksums.write(file, fit(frame.image, config).tobytes())
            labels["steering"].append(frame.steering)
            labels["throttle"].append(frame.throttle)
            labels["time_s"].append(frame.time_s)
            labels["lap"].append(frame.lap)
            labels["training_only"].append(frame.training_only)
            between_frames()
    for name, kind in _LABELS:
        checksums.write(file, np.asarray(labels[name], kind).tobytes())
    footer = json.dumps(
        {
            "format": FORMAT,
            "frames": len(labels["lap"]),
            "height": config.frame_height,
            "width": config.frame_width,
            "skipped": tally.skipped,
            "crc_block_bytes": CRC_BLOCK_BYTES,
            "crcs": checksums.finished(),
        },
        sort_keys=True,
    ).encode()
    file.write(footer)
    file.write(_TRAILER.pack(_MAGIC, len(footer), zlib.crc32(footer)))


class _BlockChecksums:
    """CRC-32 of every block of a stream of writes."""

    def __init__(self) -> None:
        self._done: list[int] = []
        self._crc = 0
        self._filled = 0

    def write(self, file: BinaryIO, data: bytes) -> None:
        file.write(data)
        view = memoryview(data)
        while view:
            part = view[: CRC_BLOCK_BYTES - self._filled]
            self._crc = zlib.crc32(part, self._crc)
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == CRC_BLOCK_BYTES:
                self._done.append(self._crc)
                self._crc = self._filled = 0

    def finished(self) -> list[int]:
        return [*self._done, self._crc] if self._filled else self._done


def _open(path: Path, config: DataConfig) -> CachedFrames:
    """Map a cache file after checking every byte of it.

    Raises:
        FileNotFoundError: There is none.
        _DamagedFileError: It is not what was written.
    """
    with path.open("rb") as file:
        footer = _read_footer(file)
        count, height, width = footer["frames"], footer["height"], footer["width"]
        frame_bytes = count * height * width * 3
        if (height, width) != (config.frame_height, config.frame_width):
            raise _DamagedFileError(f"frames of {height} x {width}")
        _check_blocks(file, frame_bytes + count * _LABEL_BYTES, footer)
        file.seek(frame_bytes)
        labels = {
            name: np.frombuffer(file.read(count * np.dtype(kind).itemsize), kind)
            for name, kind in _LABELS
        }
    shape = (count, height, width, 3)
    frames_NHWC: NDArray[np.uint8] = (
        np.memmap(path, np.uint8, mode="r", shape=shape) if count else np.empty(shape, np.uint8)
    )
    return CachedFrames(
        frames_NHWC=frames_NHWC,
        steering_N=labels["steering"],
        throttle_N=labels["throttle"],
        time_N=labels["time_s"],
        lap_N=labels["lap"],
        training_only_N=labels["training_only"].astype(np.bool_),
        skipped=footer["skipped"],
    )


def _read_footer(file: BinaryIO) -> dict[str, Any]:
    total = file.seek(0, os.SEEK_END)
    if total < _TRAILER.size:
        raise _DamagedFileError(f"only {total} bytes long")
    file.seek(total - _TRAILER.size)
    magic, length, crc = _TRAILER.unpack(file.read(_TRAILER.size))
    if magic != _MAGIC or length > total - _TRAILER.size:
        raise _DamagedFileError("it does not end as it should")
    file.seek(total - _TRAILER.size - length)
    encoded = file.read(length)
    if zlib.crc32(encoded) != crc:
        raise _DamagedFileError("checksum of the footer")
    footer: dict[str, Any] = json.loads(encoded)
    count = footer["frames"]
    expected = count * (footer["height"] * footer["width"] * 3 + _LABEL_BYTES)
    if footer["format"] != FORMAT or expected != total - _TRAILER.size - length:
        raise _DamagedFileError("length")
    return footer


def _check_blocks(file: BinaryIO, content_bytes: int, footer: dict[str, Any]) -> None:
    """Compare every block with its checksum, through one small buffer."""
    block_bytes, crcs = footer["crc_block_bytes"], footer["crcs"]
    if len(crcs) != -(-content_bytes // block_bytes):
        raise _DamagedFileError("number of checksums")
    buffer = memoryview(bytearray(min(block_bytes, content_bytes)))
    file.seek(0)
    for number, crc in enumerate(crcs):
        block = buffer[: min(block_bytes, content_bytes - number * block_bytes)]
        if file.readinto(block) != len(block) or zlib.crc32(block) != crc:  # type: ignore[attr-defined]  # BinaryIO lacks readinto
            raise _DamagedFileError(f"checksum of block {number}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, which the kernel frees when this process ends in any way."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _why_not_written(path: Path, error: OSError) -> str:
    way_out = (
        "make room there or choose another cache folder"
        if error.errno == errno.ENOSPC
        else "choose a cache folder that you may write to"
    )
    return f"{path}: cannot write the frame cache ({error.strerror}); {way_out}"
