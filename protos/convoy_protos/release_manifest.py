"""What lies in a release folder, and how its manifest.json reads.

    model.fp32.onnx       variant fp32       float32
    model.int8.onnx       variant int8-cpu   activations uint8, weights int8 per channel
    model.int8-trt.onnx   variant int8-trt   int8, symmetric, zero point 0
    golden.npz            frames, and what each variant answers to them where it was made
    card.json, card.html  for people: gates, slices, lineage, privacy; vehicles skip them
    manifest.json         what is in the folder, and where the model comes from

The server writes manifest.json (convoy_server.release.manifest says what else is in it); a vehicle
reads the part below and treats every field as hostile.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from convoy_protos.errors import MalformedMessageError

MANIFEST: Final = "manifest.json"
MANIFEST_SCHEMA: Final = "convoy.release/1"
MODEL_SCHEMA: Final = "convoy.model/1"
GOLDEN_FILE: Final = "golden.npz"

MODEL_INPUT: Final = "frames"
"""uint8 (batch, height, width, 3), RGB, as the camera gives them."""
MODEL_OUTPUTS: Final = ("steering", "throttle")
"""float32 (batch, 3), probabilities of left, straight, right; float32 (batch,)."""

MAX_MANIFEST_BYTES: Final = 1_000_000
_MAX_SIDE: Final = 4096
_MAX_FILE_BYTES: Final = 2**40
_HEX_DIGITS: Final = frozenset("0123456789abcdef")


class Variant(Enum):
    """The same model for different hardware."""

    FP32 = "fp32"
    INT8_CPU = "int8-cpu"
    INT8_TRT = "int8-trt"

    @property
    def file_name(self) -> str:
        """Its file in a release folder."""
        return _FILES[self]


_FILES: Final = {
    Variant.FP32: "model.fp32.onnx",
    Variant.INT8_CPU: "model.int8.onnx",
    Variant.INT8_TRT: "model.int8-trt.onnx",
}
_KNOWN_FILES: Final = (*_FILES.values(), GOLDEN_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What a file must be.

    Attributes:
        sha256: Lower-case hexadecimal.
        size_bytes: Its length.
    """

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseManifest:
    """The part of manifest.json that a vehicle goes by.

    Attributes:
        release_id: Names the release.
        counter: Grows with every release of a fleet; 0 means not numbered.
        accepted: Whether every gate passed where it was made.
        frame_height: Pixels of the frames that the model takes.
        frame_width: Likewise.
        files: By file name: the variants and the golden vectors. The manifest may name others,
            which do not matter to a vehicle.
    """

    release_id: str
    counter: int
    accepted: bool
    frame_height: int
    frame_width: int
    files: Mapping[str, FileFacts]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Those that the release has."""
        return tuple(variant for variant in Variant if variant.file_name in self.files)


def read_manifest(content: bytes) -> ReleaseManifest:
    """Read manifest.json.

    Raises:
        MalformedMessageError: It is not what the server writes; the message names the field.
    """
    if len(content) > MAX_MANIFEST_BYTES:
        raise MalformedMessageError(
            f"{MANIFEST}: expected at most {MAX_MANIFEST_BYTES} bytes, got {len(content)}"
        )
    try:
        table = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError(f"{MANIFEST}: not JSON ({error})") from error
    schema = _field(table, "schema", str)
    if schema != MANIFEST_SCHEMA:
        raise MalformedMessageError(
            f"{MANIFEST}: schema: expected {MANIFEST_SCHEMA}, got {schema[:40]!r}"
        )
    frames = _field(table, "input", dict)
    files = _field(table, "files", dict)
    return ReleaseManifest(
        release_id=_name(table, "release_id"),
        counter=_whole(table, "counter", 0, 2**63 - 1),
        accepted=_field(table, "accepted", bool),
        frame_height=_whole(frames, "height", 1, _MAX_SIDE),
        frame_width=_whole(frames, "width", 1, _MAX_SIDE),
        files={name: _facts(files[name], name) for name in _KNOWN_FILES if name in files},
    )


def _facts(table: Any, name: str) -> FileFacts:
    sha256 = _field(table, "sha256", str)
    if len(sha256) != 64 or not set(sha256) <= _HEX_DIGITS:
        raise MalformedMessageError(f"{MANIFEST}: sha256 of {name}: expected 64 hex digits")
    return FileFacts(sha256=sha256, size_bytes=_whole(table, "bytes", 0, _MAX_FILE_BYTES))


def _field(table: Any, key: str, kind: type[Any]) -> Any:
    value = table.get(key) if isinstance(table, dict) else None
    if type(value) is not kind:
        raise MalformedMessageError(
            f"{MANIFEST}: {key}: expected {kind.__name__}, got {type(value).__name__}"
        )
    return value


def _whole(table: Any, key: str, least: int, most: int) -> int:
    value: int = _field(table, key, int)
    if not least <= value <= most:
        raise MalformedMessageError(f"{MANIFEST}: {key}: expected {least}..{most}, got {value}")
    return value


def _name(table: Any, key: str) -> str:
    value: str = _field(table, key, str)
    if not (0 < len(value) <= 200 and value.isprintable()):
        raise MalformedMessageError(f"{MANIFEST}: {key}: expected 1..200 printable characters")
    return value
