"""Turn a float32 ONNX network into 8-bit integers, with the ranges of its tensors.

Source: Jacob et al., CVPR 2018 (integer arithmetic, zero points), through onnxruntime.quantization:
static, QDQ, weights int8 per output channel. Two forms, because processors and TensorRT want
different ones:

    int8-cpu   activations uint8 from the smallest to the largest value seen; bias int32
    int8-trt   activations int8, symmetric, zero point 0; bias float; no pair between a convolution
               and its Relu (NVIDIA, TensorRT documentation: "Explicit Quantization")

Which frames calibrate decides, not how many or by which method: the wrong pictures cost 0.19 of
accuracy in our trials where 16 and 128 right ones gave the same. The ranges come from frames that
the server may see, or merged from vehicles that show nobody theirs.
"""

# Shapes: T tensors, N frames, H height, W width, 3 colour channels.

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

from convoy_compression.model.camera_input import (
    cast_first,
    drop_unused,
    new_tensors,
    start_from_bytes,
)
from convoy_compression.model.errors import QuantizationError
from convoy_compression.model.onnx_export import IR_VERSION, set_metadata
from convoy_compression.model.range_observer import observer_of
from convoy_compression.model.tensor_ranges import TensorRanges, observe

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

_PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}
"""Tells quantize_static that the network was optimized before, which the exporter has done;
otherwise it warns on the root logger."""


def ranges_from_frames(model: onnx.ModelProto, calibration_NHWC: NDArray[np.uint8]) -> TensorRanges:
    """The ranges of a float32 network's tensors on frames that the server may see.

    Args:
        model: float32, of the contract in `onnx_export`.
        calibration_NHWC: Frames like those that the vehicle will see, N at least 1.

    Raises:
        CalibrationError: The frames have another size, or a tensor held NaN or absurd values.
    """
    return observe(observer_of(model).SerializeToString(), calibration_NHWC)


def quantize_int8(
    model: onnx.ModelProto,
    ranges: TensorRanges,
    metadata: Mapping[str, str],
    *,
    seven_bit_weights: bool = False,
) -> onnx.ModelProto:
    """Quantize for processors; the result has the same contract as the model.

    Args:
        model: float32, of the contract in `onnx_export`; left as it is.
        ranges: Of the model's tensors.
        metadata: What the file says about itself; replaces the model's own.
        seven_bit_weights: For x86 processors without VNNI: their sum of two products of 8 bits
            saturates at 16 bits, so that the answers would silently differ from those here.

    Raises:
        QuantizationError: A weight is NaN or infinite, a range is missing, or onnxruntime cannot
            quantize the network.
    """
    prepared = start_from_bytes(model)
    quantized = _quantize(
        prepared,
        _with_new_tensors(ranges, new_tensors(prepared)),
        activation_type=QuantType.QUInt8,
        reduce_range=seven_bit_weights,
    )
    _keep_outputs_float(quantized.graph)
    return _finish(quantized, metadata)


def quantize_for_tensorrt(
    model: onnx.ModelProto, ranges: TensorRanges, metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """Quantize for TensorRT; the result has the same contract as the model.

    Processors run it too, on x86 slower than float32: there onnxruntime has no kernels for it.

    Args:
        model: float32, of the contract in `onnx_export`; left as it is.
        ranges: Of the model's tensors.
        metadata: What the file says about itself; replaces the model's own.

    Raises:
        QuantizationError: A weight is NaN or infinite, a range is missing, or onnxruntime cannot
            quantize the network.
    """
    quantized = _quantize(
        cast_first(model),
        ranges,
        activation_type=QuantType.QInt8,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm"],
        },
    )
    return _finish(quantized, metadata)


def _quantize(prepared: onnx.ModelProto, ranges: TensorRanges, **settings: Any) -> onnx.ModelProto:
    _check_finite(prepared)
    set_metadata(prepared, _PREPARED)
    found = {
        name: (low, high)
        for name, low, high in zip(ranges.names, ranges.low_T, ranges.high_T, strict=True)
    }
    try:
        with tempfile.TemporaryDirectory(prefix="convoy-int8-") as folder:
            source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
            cache = Path(folder) / "ranges.json"
            onnx.save(prepared, source)
            save_tensors_data(TensorsData(CalibrationMethod.MinMax, found), cache)
            quantize_static(
                source,
                target,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED_OPERATORS),
                per_channel=True,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                calibration_cache_path=cache,
                **settings,
            )
            return onnx.load(target)
    except Exception as error:  # onnxruntime's errors share no public base class
        raise QuantizationError(f"onnxruntime cannot quantize the network: {error}") from error


def _with_new_tensors(ranges: TensorRanges, same: Mapping[str, str]) -> TensorRanges:
    """The ranges, and those of tensors that hold the same values under another name."""
    places = {name: place for place, name in enumerate(ranges.names)}
    known = {new: places[old] for new, old in same.items() if old in places}
    chosen = [*range(len(ranges.names)), *known.values()]
    return TensorRanges(
        names=(*ranges.names, *known), low_T=ranges.low_T[chosen], high_T=ranges.high_T[chosen]
    )


def _finish(quantized: onnx.ModelProto, metadata: Mapping[str, str]) -> onnx.ModelProto:
    drop_unused(quantized.graph)
    _shorten_names(quantized.graph)
    quantized.ir_version = IR_VERSION
    set_metadata(quantized, metadata)
    return quantized


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
