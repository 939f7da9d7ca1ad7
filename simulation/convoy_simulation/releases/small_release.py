"""A release of a tiny model, made without torch, and ways to break it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from convoy_driving.golden import Answers, GoldenVectors, golden_bytes
from convoy_protos.release_manifest import Variant

HEIGHT, WIDTH = 16, 20
_FEATURES = 4 * 7 * 9
"""What a convolution of 3 x 3 and stride 2 leaves of them."""


def model(
    *,
    extra_nodes: Sequence[onnx.NodeProto] = (),
    extra_constants: Mapping[str, np.ndarray[Any, Any]] | None = None,
    seed: int = 0,
) -> onnx.ModelProto:
    """Frames -> Cast, Transpose, scale -> Conv, Relu -> Flatten -> Gemm -> Softmax; throttle is zero.

    Args:
        extra_nodes: Put in front; may use "frames" and extra_constants.
        extra_constants: By name.
        seed: Of the weights.
    """
    rng = np.random.default_rng(seed)
    constants = {
        "scale": np.float32(1 / 255),
        "kernel": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "steering_weight": rng.normal(size=(_FEATURES, 3)).astype(np.float32),
        "throttle_weight": rng.normal(size=(_FEATURES, 1)).astype(np.float32),
        "column": np.array([1], np.int64),
        **(extra_constants or {}),
    }
    nodes = [
        *extra_nodes,
        helper.make_node("Cast", ["frames"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "kernel"], ["raw"], strides=[2, 2]),
        helper.make_node("Relu", ["raw"], ["features"]),
        helper.make_node("Flatten", ["features"], ["flat"]),
        helper.make_node("Gemm", ["flat", "steering_weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["steering"], axis=1),
        helper.make_node("Gemm", ["flat", "throttle_weight"], ["throttle_column"]),
        helper.make_node("Squeeze", ["throttle_column", "column"], ["pedal"]),
        helper.make_node("Tanh", ["pedal"], ["throttle"]),
    ]
    graph = helper.make_graph(
        nodes,
        "driver",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", HEIGHT, WIDTH, 3])],
        [
            helper.make_tensor_value_info("steering", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("throttle", TensorProto.FLOAT, ["batch"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(made, {"convoy.schema": "convoy.model/1"})
    return made


def frames(count: int = 3) -> NDArray[np.uint8]:
    """Noise, uint8 (count, HEIGHT, WIDTH, 3)."""
    return np.random.default_rng(1).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


def golden(
    made: onnx.ModelProto, variants: Sequence[Variant] = (Variant.FP32, Variant.INT8_CPU)
) -> GoldenVectors:
    """What a sound model answers."""
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    answers = Answers(*session.run(["steering", "throttle"], {"frames": frames()}))
    return GoldenVectors(frames(), dict.fromkeys(variants, answers))


def write_release(
    folder: Path,
    models: Mapping[Variant, bytes],
    golden_vectors: GoldenVectors,
    **changes: object,
) -> Path:
    """Files and a manifest that fits them; `changes` overwrite the manifest's fields."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {variant.file_name: content for variant, content in models.items()}
    contents["golden.npz"] = golden_bytes(golden_vectors)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_bytes(manifest_bytes(contents, **changes))
    return folder


def manifest_bytes(contents: Mapping[str, bytes], **changes: object) -> bytes:
    """manifest.json for some files."""
    manifest = {
        "schema": "convoy.release/1",
        "release_id": "spring",
        "counter": 3,
        "accepted": True,
        "input": {"height": HEIGHT, "width": WIDTH},
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in contents.items()
        },
    }
    return json.dumps(manifest | changes).encode()
