"""Look at an ONNX file without loading it: is this a driving model and nothing else?

onnxruntime refuses much of what is wrong, but not all: it loads NaN and 3e38 weights, a Loop that
never ends and a constant of a terabyte. Here everything is refused that a driving model does not
need. Pure functions of bytes; they run where memory and time are limited (worker.py), for a small
file can still unfold to many objects.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from convoy_edge_client.preflight.preflight_config import FileLimits
from convoy_protos.findings import Finding, ok, problem
from convoy_protos.release_manifest import MODEL_INPUT as INPUT
from convoy_protos.release_manifest import MODEL_OUTPUTS as OUTPUTS
from convoy_protos.release_manifest import MODEL_SCHEMA
from convoy_protos.v1.onnx_model_pb2 import OnnxAttribute, OnnxModel, OnnxTensor, OnnxValue

OPERATORS: Final = frozenset(
    {
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Cast",
        "Clip",
        "Concat",
        "Conv",
        "DequantizeLinear",
        "Div",
        "Expand",
        "Flatten",
        "Gemm",
        "GlobalAveragePool",
        "Identity",
        "InstanceNormalization",
        "MatMul",
        "MaxPool",
        "Mul",
        "Neg",
        "QuantizeLinear",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "Relu",
        "Reshape",
        "Shape",
        "Sigmoid",
        "Softmax",
        "Squeeze",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
    }
)
"""What our networks are made of, and their near relatives. No Loop, If, Scan; nothing that makes
tensors out of numbers (ConstantOfShape, Range, Tile) or knows files, chance or strings."""

_STANDARD_DOMAINS: Final = ("", "ai.onnx")

_FLOAT, _UINT8 = 1, 2
_NUMPY_TYPES: Final = {_FLOAT: "<f4", _UINT8: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?"}
"""TensorProto.DataType of the constants that a driving model has."""

_MOST_AXES: Final = 8

_PLAIN_ATTRIBUTES: Final = frozenset({1, 2, 3, 4, 6, 7, 8})
"""AttributeProto.AttributeType: numbers, strings, one tensor. No graphs, no types."""
_REFUSED_ATTRIBUTE_FIELDS: Final = (
    "g",
    "tensors",
    "graphs",
    "tp",
    "type_protos",
    "ref_attr_name",
    "sparse_tensor",
    "sparse_tensors",
)

BATCH: Final = 0
"""As ONNX gives an open size."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What a file must take and give.

    Attributes:
        frame_height: Pixels of the frames.
        frame_width: Likewise.
        outputs: Sizes of each output, all float32; None is any size, BATCH one that is open or 1.
        schema: Of the metadata; None: it may have none.
    """

    frame_height: int
    frame_width: int
    outputs: Mapping[str, tuple[int | None, ...]]
    schema: str | None


def driver_contract(frame_height: int, frame_width: int) -> Contract:
    """Of a driving model."""
    outputs = {OUTPUTS[0]: (BATCH, 3), OUTPUTS[1]: (BATCH,)}
    return Contract(frame_height, frame_width, outputs, MODEL_SCHEMA)


class _RefusedError(Exception):
    """A check failed; the message says how."""


def examine(content: bytes, variant: str, contract: Contract, limits: FileLimits) -> list[Finding]:
    """Every check, one finding each; after a file that cannot be read there is nothing to check.

    Args:
        content: Of the file.
        variant: Names the file in the findings.
        contract: What the file must take and give.
        limits: What the file may hold.
    """
    try:
        model = OnnxModel.FromString(content)
    except DecodeError:
        return [problem(f"{variant} format", "not an ONNX file; fetch the release again")]
    checks: dict[str, Callable[[], str]] = {
        "format": lambda: _check_format(model, limits),
        "operators": lambda: _check_operators(model),
        "external data": lambda: _check_external_data(model),
        "weights": lambda: _check_weights(model, limits),
        "contract": lambda: _check_contract(model, contract),
    }
    return [_finding(f"{variant} {name}", check) for name, check in checks.items()]


def _finding(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return ok(subject, check())
    except _RefusedError as refused:
        return problem(subject, str(refused))


def _check_format(model: OnnxModel, limits: FileLimits) -> str:
    if not limits.oldest_ir <= model.ir_version <= limits.newest_ir:
        raise _RefusedError(
            f"expected IR version {limits.oldest_ir}..{limits.newest_ir}, got {model.ir_version}"
        )
    opsets = [(_short(opset.domain), opset.version) for opset in model.opset_import]
    if len(opsets) != 1 or opsets[0][0] not in _STANDARD_DOMAINS:
        raise _RefusedError(f"expected the standard operators alone, got {opsets[:5]}")
    (_, version) = opsets[0]
    if not limits.oldest_opset <= version <= limits.newest_opset:
        raise _RefusedError(
            f"expected opset {limits.oldest_opset}..{limits.newest_opset}, got {version}"
        )
    if model.functions or model.training_info or model.graph.sparse_initializer:
        raise _RefusedError("holds functions, training graphs or sparse constants")
    return f"opset {version}, IR {model.ir_version}"


def _check_operators(model: OnnxModel) -> str:
    for node in model.graph.node:
        if node.domain not in _STANDARD_DOMAINS or node.op_type not in OPERATORS:
            name = ":".join(filter(None, (_short(node.domain), _short(node.op_type))))
            raise _RefusedError(f"operator {name} is not on the list of what a driving model needs")
        for attribute in node.attribute:
            _check_attribute(attribute, node.op_type)
    return f"{len(model.graph.node)} nodes, all on the list"


def _check_attribute(attribute: OnnxAttribute, operator: str) -> None:
    present = {field.name for field, _ in attribute.ListFields()}
    if attribute.type not in _PLAIN_ATTRIBUTES or present & set(_REFUSED_ATTRIBUTE_FIELDS):
        raise _RefusedError(
            f"attribute {_short(attribute.name)} of {operator} is neither number, string nor tensor"
        )
    if not all(map(math.isfinite, (attribute.f, *attribute.floats))):
        raise _RefusedError(f"attribute {_short(attribute.name)} of {operator} is not finite")


def _check_external_data(model: OnnxModel) -> str:
    for tensor in _constants(model):
        if tensor.data_location != 0 or tensor.external_data:
            raise _RefusedError(f"constant {_short(tensor.name)} lies in another file")
    return "everything is in the file"


def _check_weights(model: OnnxModel, limits: FileLimits) -> str:
    count, largest = 0, 0.0
    for tensor in _constants(model):
        values = _values(tensor)
        count += values.size
        if tensor.data_type != _FLOAT or not values.size:
            continue
        magnitude = float(np.abs(values).max())
        if not math.isfinite(magnitude):
            raise _RefusedError(f"constant {_short(tensor.name)} holds NaN or infinite values")
        if magnitude > limits.largest_weight:
            raise _RefusedError(
                f"constant {_short(tensor.name)} holds {magnitude:.3g}, "
                f"at most {limits.largest_weight:g} allowed"
            )
        largest = max(largest, magnitude)
    return f"{count} values, the largest float {largest:.3g}"


def _values(tensor: OnnxTensor) -> NDArray[Any]:
    """The constant; its size is that of what is stored, never of what is claimed."""
    kind = _NUMPY_TYPES.get(tensor.data_type)
    if kind is None or tensor.HasField("segment"):
        raise _RefusedError(
            f"constant {_short(tensor.name)} has data type {tensor.data_type}, which no driving "
            "model needs"
        )
    stored = (
        np.frombuffer(tensor.raw_data, kind)
        if len(tensor.raw_data) % np.dtype(kind).itemsize == 0
        else np.zeros(0)
    )
    if not stored.size:
        stored = np.asarray(tensor.float_data or tensor.int32_data or tensor.int64_data)
    if len(tensor.dims) > _MOST_AXES or any(dim < 0 for dim in tensor.dims):
        raise _RefusedError(f"constant {_short(tensor.name)} has axes that no tensor has")
    expected = math.prod(tensor.dims)
    if stored.size != expected:
        raise _RefusedError(
            f"constant {_short(tensor.name)} claims {expected} values and stores {stored.size}"
        )
    return stored


def _check_contract(model: OnnxModel, contract: Contract) -> str:
    graph = model.graph
    inputs, outputs = [item.name for item in graph.input], [item.name for item in graph.output]
    if inputs != [INPUT] or sorted(outputs) != sorted(contract.outputs):
        raise _RefusedError(
            f"expected input {INPUT} and outputs {', '.join(contract.outputs)}, "
            f"got {_names(inputs)} and {_names(outputs)}"
        )
    frame_shape = (BATCH, contract.frame_height, contract.frame_width, 3)
    _check_value(graph.input[0], _UINT8, frame_shape)
    for value in graph.output:
        _check_value(value, _FLOAT, contract.outputs[value.name])
    schemas = [entry.value for entry in model.metadata_props if entry.key == "convoy.schema"]
    if contract.schema is not None and schemas != [contract.schema]:
        raise _RefusedError(f"expected convoy.schema {contract.schema}, got {_names(schemas)}")
    return f"frames of {contract.frame_height} x {contract.frame_width}, {' and '.join(outputs)}"


def _check_value(value: OnnxValue, kind: int, shape: tuple[int | None, ...]) -> None:
    found = value.type.tensor_type
    sizes = [dim.dim_value for dim in found.shape.dim]
    fits = len(sizes) == len(shape) and all(
        wanted is None or size == wanted or (wanted == BATCH and size == 1)
        for size, wanted in zip(sizes, shape, strict=True)
    )
    if found.elem_type != kind or not fits:
        raise _RefusedError(
            f"{value.name}: expected data type {kind} and shape {_sizes_text(shape)}, got "
            f"{found.elem_type} and {_shape_text(value)}"
        )


def _sizes_text(shape: tuple[int | None, ...]) -> str:
    names = {None: "any", BATCH: "batch"}
    return f"({', '.join(names.get(size) or str(size) for size in shape)})"


def _shape_text(value: OnnxValue) -> str:
    dims = value.type.tensor_type.shape.dim
    return f"({', '.join(str(dim.dim_value or _short(dim.dim_param)) for dim in dims[:8])})"


def _constants(model: OnnxModel) -> Iterator[OnnxTensor]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _names(names: list[str]) -> str:
    return ", ".join(map(_short, names[:5])) or "none"


def _short(name: str) -> str:
    """A hostile name on one line of a report."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:60])
