"""Turn a float32 ONNX network into 8-bit integers, calibrated on frames.

Source: Jacob et al., CVPR 2018 (integer arithmetic, zero points), through onnxruntime.quantization:
static, QDQ, activations uint8 by the smallest and largest value seen, weights int8 per output
channel. That is the form which CPUs run fast; TensorRT wants symmetric activations instead.

Which frames calibrate decides, not how many or by which method: the wrong pictures cost 0.19 of
accuracy in our trials where 16 and 128 right ones gave the same.
"""

# Shapes: N frames, H height, W width, 3 colour channels.

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from convoy_compression.model.camera_input import drop_unused, start_from_bytes
from convoy_compression.model.errors import QuantizationError
from convoy_compression.model.onnx_export import INPUT, IR_VERSION, set_metadata

QUANTIZED_OPERATORS: Final = (
    "Conv",
    "Gemm",
    "Relu",
    "MaxPool",
    "Reshape",
    "Transpose",
    "Flatten",
)
"""Where the arithmetic is, and what lies between. Softmax and the outputs stay float: 256 steps
of probability would be coarse and save nothing."""

_CALIBRATION_BATCH = 16

_PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}
"""Tells quantize_static that the network was optimized before, which the exporter has done;
otherwise it warns on the root logger."""


def quantize_int8(
    model: onnx.ModelProto,
    calibration_NHWC: NDArray[np.uint8],
    metadata: Mapping[str, str],
    *,
    seven_bit_weights: bool = False,
) -> onnx.ModelProto:
    """Quantize a network of the contract in `onnx_export`; the result has the same contract.

    Args:
        model: float32; left as it is.
        calibration_NHWC: Frames like those that the vehicle will see, N at least 1.
        metadata: What the file says about itself; replaces the model's own.
        seven_bit_weights: For x86 processors without VNNI: their sum of two products of 8 bits
            saturates at 16 bits, so that the answers would silently differ from those here.

    Raises:
        QuantizationError: A weight is NaN or infinite, or onnxruntime cannot quantize the network.
    """
    if not len(calibration_NHWC):
        raise ValueError("calibration needs at least one frame, got none")
    _check_finite(model)
    prepared = start_from_bytes(model)
    set_metadata(prepared, _PREPARED)
    try:
        with tempfile.TemporaryDirectory(prefix="convoy-int8-") as folder:
            source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
            onnx.save(prepared, source)
            quantize_static(
                source,
                target,
                _Frames(calibration_NHWC),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED_OPERATORS),
                per_channel=True,
                reduce_range=seven_bit_weights,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
            quantized = onnx.load(target)
    except Exception as error:  # onnxruntime's errors share no public base class
        raise QuantizationError(f"onnxruntime cannot quantize the network: {error}") from error
    _keep_outputs_float(quantized.graph)
    drop_unused(quantized.graph)
    _shorten_names(quantized.graph)
    quantized.ir_version = IR_VERSION
    set_metadata(quantized, metadata)
    return quantized


class _Frames(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime publishes no types
    """Hands frames to the calibrator, a few at a time."""

    def __init__(self, frames_NHWC: NDArray[np.uint8]) -> None:
        starts = range(0, len(frames_NHWC), _CALIBRATION_BATCH)
        self._batches = (frames_NHWC[start : start + _CALIBRATION_BATCH] for start in starts)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch by input name; None when all were seen."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: np.ascontiguousarray(batch)}


def _check_finite(model: onnx.ModelProto) -> None:
    for item in model.graph.initializer:
        values = numpy_helper.to_array(item)
        if not np.isfinite(values).all():
            raise QuantizationError(f"{item.name} holds NaN or infinite values")


def _keep_outputs_float(graph: onnx.GraphProto) -> None:
    """Remove each Quantize-Dequantize pair that no integer operator reads.

    Such a pair only rounds: an integer Gemm can hand out its float result.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for quantize in [node for node in graph.node if node.op_type == "QuantizeLinear"]:
        pairs = readers.get(quantize.output[0], [])
        behind = [node for pair in pairs for node in readers.get(pair.output[0], [])]
        if any(node.op_type in QUANTIZED_OPERATORS for node in behind):
            continue
        rounded = {pair.output[0] for pair in pairs}
        if any(value.name in rounded for value in graph.output):
            continue
        for node in behind:
            for place, name in enumerate(node.input):
                if name in rounded:
                    node.input[place] = quantize.input[0]
        for node in (quantize, *pairs):
            graph.node.remove(node)


def _shorten_names(graph: onnx.GraphProto) -> None:
    """Number everything inside the graph; inputs and outputs keep their names.

    Names like model.features.0.weight_DequantizeLinear_Output make up 6 % of a small student.
    """
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    numbers: dict[str, str] = {name: name for name in kept}
    for item in graph.initializer:
        item.name = numbers.setdefault(item.name, str(len(numbers)))
    for node in graph.node:
        node.ClearField("name")
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = numbers.setdefault(name, str(len(numbers)))
