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

import numpy as np

import convoy_compression
import convoy_driving
import convoy_protos
import convoy_server
from convoy_driving.steering_classes import CLASS_ANGLES, CLASS_NAMES
from convoy_protos.release_manifest import MANIFEST, MANIFEST_SCHEMA, MODEL_SCHEMA, Variant
from convoy_server.federation import FederationResult
from convoy_server.release.proxy import ProxyFrames
from convoy_server.report.contract import Gate
from convoy_server.run_config import RunConfig
from convoy_server.run_directory import model_digest

PRECISIONS: Final = {
    Variant.FP32: "float32",
    Variant.INT8_CPU: "int8",
    Variant.INT8_TRT: "int8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a model comes from and what it takes.

    Attributes:
        release_id: Names the release.
        counter: Grows with every release of a fleet; 0 means not numbered.
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
        proxy_sha256: Of the frames and labels that taught and measured the student.
        calibration: Where the int8 ranges come from: "proxy" frames or "vehicles"; empty where it did
            not come to that.
        created_by: Program and version.
    """

    release_id: str
    counter: int
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
    proxy_sha256: str
    calibration: str
    created_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseName:
    """How a release is told from others.

    Attributes:
        run_id: The training run.
        release_id: Empty: the run and its last round.
        counter: Grows with every release of a fleet; 0 means not numbered.
    """

    run_id: str
    release_id: str = ""
    counter: int = 0

    def __post_init__(self) -> None:
        if self.counter < 0:
            raise ValueError(f"counter must be at least 0, got {self.counter}")


def origin_of(
    run: RunConfig,
    result: FederationResult,
    name: ReleaseName,
    *,
    student_parameters: int,
    proxy: ProxyFrames,
    calibration: str,
) -> Origin:
    """Gather what is known about a release before it is built."""
    last_round = result.records[-1].round if result.records else 0
    return Origin(
        release_id=name.release_id or f"{name.run_id}-{last_round}",
        counter=name.counter,
        run_id=name.run_id,
        run_name=run.name,
        seed=run.seed,
        round=last_round,
        global_model_sha256=model_digest(result.model_N).hex(),
        parameter_schema_sha256=result.schema.digest.hex(),
        student=run.release.student,
        student_parameters=student_parameters,
        steering=run.model.steering,
        steering_threshold=run.data.steering_threshold,
        input=input_spec(run),
        proxy_sha256=proxy_digest(proxy),
        calibration=calibration,
        created_by=f"convoy-fl {version('convoy-fl')}",
    )


def proxy_digest(proxy: ProxyFrames) -> str:
    """SHA-256 of everything that a release takes from the proxy recordings, in hexadecimal."""
    digest = hashlib.sha256()
    held = proxy.held_indices
    for array in (
        proxy.train_NHWC,
        proxy.held_MHWC,
        proxy.dataset.steering_N[held].astype("<f4"),
        proxy.dataset.throttle_N[held].astype("<f4"),
    ):
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


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


def file_metadata(origin: Origin, variant: Variant) -> dict[str, str]:
    """The strings inside an ONNX file (metadata_props)."""
    return {
        "convoy.schema": MODEL_SCHEMA,
        "convoy.release": origin.release_id,
        "convoy.counter": str(origin.counter),
        "convoy.variant": variant.value,
        "convoy.precision": PRECISIONS[variant],
        "convoy.calibration": origin.calibration,
        "convoy.proxy_sha256": origin.proxy_sha256,
        "convoy.classes": json.dumps(CLASS_NAMES),
        "convoy.class_angles": json.dumps(CLASS_ANGLES),
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
        "class_angles": list(CLASS_ANGLES),
        "outputs": {"steering": "float32 (batch, 3)", "throttle": "float32 (batch,)"},
        "files": {
            name: {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()
        },
        "variants": {
            variant.value: variant.file_name for variant in Variant if variant.file_name in files
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


def code_digest() -> str:
    """SHA-256 over the sources of every Convoy package that makes releases, in hexadecimal."""
    digest = hashlib.sha256()
    for package in (convoy_protos, convoy_compression, convoy_driving, convoy_server):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package.__name__}/{path.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def sha256(data: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(data).hexdigest()
