"""What a release says about itself: strings inside each ONNX file, and manifest.json beside them.

A vehicle checks the hashes of the manifest first: one flipped bit in an ONNX file loads, runs and
drives plausibly. Neither text holds a time of its own, so the same model gives the same files.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from convoy_driving.steering_classes import CLASS_NAMES
from convoy_server.federation import FederationResult
from convoy_server.report.contract import Gate
from convoy_server.run_config import RunConfig
from convoy_server.run_directory import model_digest

MODEL_SCHEMA: Final = "convoy.model/1"
MANIFEST_SCHEMA: Final = "convoy.release/1"
MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a model comes from and what it takes.

    Attributes:
        run_id: The training run.
        run_name: What the run is called.
        seed: The run's seed.
        round: The last finished round.
        global_model_sha256: Of the global model's parameters as little-endian float32.
        parameter_schema_sha256: Of their names and shapes.
        student: Registry name of the network in the file.
        student_parameters: Their number, after pruning.
        steering: Form of the network's own steering output; the file's is always classes.
        steering_threshold: Steering of a smaller magnitude counts as straight.
        input: What the file takes: see `input_spec`.
        created_by: Program and version.
    """

    run_id: str
    run_name: str
    seed: int
    round: int
    global_model_sha256: str
    parameter_schema_sha256: str
    student: str
    student_parameters: int
    steering: str
    steering_threshold: float
    input: Mapping[str, Any]
    created_by: str


def origin_of(
    run: RunConfig, result: FederationResult, run_id: str, student_parameters: int
) -> Origin:
    """Gather what is known about a release before it is built."""
    return Origin(
        run_id=run_id,
        run_name=run.name,
        seed=run.seed,
        round=result.records[-1].round if result.records else 0,
        global_model_sha256=model_digest(result.model_N).hex(),
        parameter_schema_sha256=result.schema.digest.hex(),
        student=run.release.student,
        student_parameters=student_parameters,
        steering=run.model.steering,
        steering_threshold=run.data.steering_threshold,
        input=input_spec(run),
        created_by=f"convoy-fl {version('convoy-fl')}",
    )


def input_spec(run: RunConfig) -> dict[str, Any]:
    """How to make the input from a camera picture: cut top and bottom off, resize, hand over."""
    return {
        "name": "frames",
        "dtype": "uint8",
        "layout": "NHWC",
        "color": "RGB",
        "height": run.data.frame_height,
        "width": run.data.frame_width,
        "crop_top": run.data.crop_top,
        "crop_bottom": run.data.crop_bottom,
    }


def file_metadata(origin: Origin, precision: str) -> dict[str, str]:
    """The strings inside an ONNX file (metadata_props); `precision` is "float32" or "int8"."""
    return {
        "convoy.schema": MODEL_SCHEMA,
        "convoy.precision": precision,
        "convoy.classes": json.dumps(CLASS_NAMES),
        "convoy.input": json.dumps(origin.input, sort_keys=True),
        "convoy.run": origin.run_id,
        "convoy.round": str(origin.round),
        "convoy.global_model_sha256": origin.global_model_sha256,
        "convoy.student": origin.student,
        "convoy.steering": origin.steering,
        "convoy.steering_threshold": repr(origin.steering_threshold),
        "convoy.created_by": origin.created_by,
    }


def manifest_json(
    origin: Origin,
    files: Mapping[str, bytes],
    gates: Sequence[Gate],
    *,
    accepted: bool,
    created: str | None = None,
) -> str:
    """The text of manifest.json.

    Args:
        origin: Where the model comes from.
        files: Content by file name.
        gates: What was asked of it.
        accepted: Whether all gates passed.
        created: UTC, ISO 8601; left out where None, so that the same release gives the same text
            up to the measured latency.
    """
    manifest: dict[str, Any] = {
        "schema": MANIFEST_SCHEMA,
        "accepted": accepted,
        "model_schema": MODEL_SCHEMA,
        **asdict(origin),
        "classes": list(CLASS_NAMES),
        "outputs": {"steering": "float32 (batch, 3)", "throttle": "float32 (batch,)"},
        "files": {
            name: {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()
        },
        "gates": [asdict(gate) for gate in gates],
    }
    if created is not None:
        manifest["created"] = created
    return json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n"


def broken_files(folder: Path) -> list[str]:
    """Names of files in a release folder that are missing or not what manifest.json says."""
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    return [
        name
        for name, expected in manifest["files"].items()
        if not (folder / name).is_file()
        or sha256((folder / name).read_bytes()) != expected["sha256"]
    ]


def sha256(data: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(data).hexdigest()
