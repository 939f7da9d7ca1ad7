"""Write a Donkeycar tub, version 2.

Source: donkeycar 5.1, donkeycar/parts/datastore_v2.py and tub_v2.py.

    manifest.json              5 lines of JSON: inputs, types, user metadata, creation and sessions,
                               catalog paths with current_index, max_len and deleted_indexes
    catalog_N.catalog          1000 records, one JSON object a line
    catalog_N.catalog_manifest creation, length of each of those lines, path, first index
    images/<index>_cam_image_array_.jpg
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RECORDS_PER_CATALOG = 1000
INPUTS = ("cam/image_array", "user/angle", "user/throttle", "user/mode")
TYPES = ("image_array", "float", "float", "str")


@dataclass(frozen=True, slots=True)
class TubRecord:
    """One moment of driving.

    Attributes:
        picture_HWC: uint8 RGB.
        angle: Steering, -1 full left to +1 full right.
        throttle: -1 full brake to +1 full gas.
        session_id: One drive without a pause.
        timestamp_ms: Milliseconds since 1970.
    """

    picture_HWC: NDArray[np.uint8]
    angle: float
    throttle: float
    session_id: str
    timestamp_ms: int


class TubWriter:
    """Appends records to a new tub; `close` writes what a reader needs to find them."""

    def __init__(self, folder: Path, jpeg_quality: int, created_at_s: float) -> None:
        self._folder = folder
        self._jpeg_quality = jpeg_quality
        self._created_at_s = created_at_s
        self._lines: list[str] = []
        self._sessions: list[str] = []
        (folder / "images").mkdir(parents=True)

    def append(self, record: TubRecord) -> None:
        """Write the picture now and remember the rest."""
        index = len(self._lines)
        image_name = f"{index}_cam_image_array_.jpg"
        jpeg = io.BytesIO()
        Image.fromarray(record.picture_HWC).save(jpeg, "JPEG", quality=self._jpeg_quality)
        (self._folder / "images" / image_name).write_bytes(jpeg.getvalue())
        if record.session_id not in self._sessions:
            self._sessions.append(record.session_id)
        self._lines.append(
            json.dumps(
                {
                    "_index": index,
                    "_session_id": record.session_id,
                    "_timestamp_ms": record.timestamp_ms,
                    "cam/image_array": image_name,
                    "user/angle": record.angle,
                    "user/throttle": record.throttle,
                    "user/mode": "user",
                }
            )
        )

    def close(self) -> None:
        """Write catalogs and manifest."""
        paths = []
        for start in range(0, len(self._lines), RECORDS_PER_CATALOG):
            name = f"catalog_{start // RECORDS_PER_CATALOG}.catalog"
            self._write_catalog(name, start, self._lines[start : start + RECORDS_PER_CATALOG])
            paths.append(name)
        creation: dict[str, Any] = {"created_at": self._created_at_s}
        if self._sessions:
            creation["sessions"] = {
                "all_full_ids": self._sessions,
                "last_id": len(self._sessions) - 1,
                "last_full_id": self._sessions[-1],
            }
        catalogs = {
            "paths": paths,
            "current_index": len(self._lines),
            "max_len": RECORDS_PER_CATALOG,
            "deleted_indexes": [],
        }
        _write_json_lines(self._folder / "manifest.json", [INPUTS, TYPES, {}, creation, catalogs])

    def _write_catalog(self, name: str, start: int, lines: list[str]) -> None:
        (self._folder / name).write_text("".join(line + "\n" for line in lines))
        manifest_name = f"{name}_manifest"
        manifest = {
            "created_at": self._created_at_s,
            "line_lengths": [len(line) + 1 for line in lines],
            "path": manifest_name,
            "start_index": start,
        }
        _write_json_lines(self._folder / manifest_name, [manifest])


def _write_json_lines(path: Path, values: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
