"""Driving-log CSV, as Udacity's simulator writes it; other columns can be named.

Source: https://github.com/udacity/self-driving-car-sim. A recording is driving_log.csv (or the only
.csv of a folder, or a .csv file) with pictures beside it, usually in IMG/:

center, left, right, steering, throttle, brake, speed

A header is used when there is one and may name the columns in any order. The paths are those of the
machine that recorded, with either slash: only their last part counts. Where no column holds the
time it is read from Udacity's picture names, center_2023_03_23_00_38_24_929.jpg.
"""

import csv
import hashlib
import re
from collections.abc import Iterator
from datetime import datetime, timezone
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

LOG_NAME = "driving_log.csv"
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})

_UDACITY_TIME = re.compile(r"_(\d{4})_(\d\d)_(\d\d)_(\d\d)_(\d\d)_(\d\d)_(\d{3})\.")


class DrivingLogReader:
    """Reads one log and its pictures."""

    format: ClassVar[str] = "driving_log"

    def __init__(self, path: Path, config: DataConfig) -> None:
        self._log = _log_of(path) or path
        self._config = config

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A .csv file, or a folder with driving_log.csv, or with one .csv and pictures."""
        return _log_of(path) is not None

    def items(self) -> Iterator[Sample | Skipped]:
        """Every row, then its side cameras where they are wanted."""
        columns = self._columns()
        pictures = self._picture_folder()
        with self._log.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            rows = csv.reader(file, skipinitialspace=True)
            for number, row in enumerate(rows):
                cells = [cell.strip() for cell in row]
                if not any(cells) or (number == 0 and self._is_header(cells)):
                    continue
                yield from self._items_of_row(cells, columns, pictures)

    def identify(self, digest: "hashlib._Hash") -> None:
        """The log by content; pictures by name, size and modification time."""
        identify_content(digest, self._log)
        found = files_in(self._picture_folder())
        identify_files(digest, (path for path in found if path.suffix.lower() in PICTURE_SUFFIXES))

    def _items_of_row(
        self, cells: list[str], columns: dict[str, int], pictures: Path
    ) -> Iterator[Sample | Skipped]:
        config = self._config
        try:
            steering = float(cells[columns[config.log_steering]]) * config.log_steering_scale
            throttle = (
                float(cells[columns[config.log_throttle]])
                if config.log_throttle in columns
                else 0.0
            )
            name = _base_name(cells[columns[config.log_image]])
            time_s = float(cells[columns[config.log_time]]) if config.log_time else _time_in(name)
        except (IndexError, ValueError):
            yield Skipped(SkipReason.MALFORMED_RECORD)
            return
        correction = config.side_camera_correction
        cameras = [(config.log_image, 0.0, False)]
        if config.side_cameras:
            cameras += [
                (config.log_left_image, correction, True),
                (config.log_right_image, -correction, True),
            ]
        for column, steering_correction, training_only in cameras:
            try:
                picture = (pictures / _base_name(cells[columns[column]])).read_bytes()
            except (IndexError, FileNotFoundError, IsADirectoryError):
                yield Skipped(SkipReason.IMAGE_MISSING)
                continue
            steered = steering + steering_correction
            yield Sample(
                picture=picture,
                steering=max(-1.0, min(1.0, steered)) if training_only else steered,
                throttle=throttle,
                time_s=time_s,
                training_only=training_only,
            )

    def _columns(self) -> dict[str, int]:
        """Position of each named column.

        Raises:
            BrokenRecordingError: A column that is needed is not there.
        """
        config = self._config
        try:
            with self._log.open(newline="", encoding="utf-8-sig", errors="replace") as file:
                first = next(csv.reader(file, skipinitialspace=True), [])
        except OSError as error:
            raise BrokenRecordingError(f"{self._log}: {error.strerror}") from error
        cells = [cell.strip() for cell in first]
        names = cells if self._is_header(cells) else list(config.log_columns)
        columns = {name: position for position, name in reversed(list(enumerate(names)))}
        needed = [config.log_image, config.log_steering]
        needed += [config.log_time] if config.log_time else []
        needed += [config.log_left_image, config.log_right_image] if config.side_cameras else []
        for name in needed:
            if name not in columns:
                raise BrokenRecordingError(
                    f"{self._log}: no column {name!r} among {', '.join(names)}; name it with "
                    "log_image, log_steering, log_time … or log_columns in [data]"
                )
        return columns

    def _is_header(self, cells: list[str]) -> bool:
        """A first row that names the steering column."""
        return self._config.log_steering in cells

    def _picture_folder(self) -> Path:
        beside = self._log.parent
        folders = [beside / name for name in ("IMG", "images", "img")]
        return next((folder for folder in folders if folder.is_dir()), beside)


def _log_of(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix.lower() == ".csv" else None
    if (path / LOG_NAME).is_file():
        return path / LOG_NAME
    logs = sorted(path.glob("*.csv")) if path.is_dir() else []
    has_pictures = any((path / name).is_dir() for name in ("IMG", "images", "img"))
    return logs[0] if len(logs) == 1 and has_pictures else None


def _base_name(path: str) -> str:
    """Last part of a path of any system."""
    return re.split(r"[\\/]", path)[-1]


def _time_in(name: str) -> float | None:
    """Seconds in a Udacity picture name; only differences matter, so any time zone will do."""
    match = _UDACITY_TIME.search(name)
    if match is None:
        return None
    year, month, day, hour, minute, second, millisecond = map(int, match.groups())
    utc = timezone.utc  # noqa: UP017 - Python 3.10 has no UTC
    moment = datetime(year, month, day, hour, minute, second, millisecond * 1000, utc)
    return moment.timestamp()
