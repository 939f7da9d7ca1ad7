"""Let a quantized network start from the camera's bytes, without a float in between.

As exported, a network begins

    frames -> Transpose -> Cast -> Mul, Div, Add, Sub ... -> Conv

and quantization would turn the bytes into floats and the floats into bytes again. But a byte u
scaled to a * u + b already is an integer with scale a and zero point -b / a: one DequantizeLinear
says so, and onnxruntime then feeds the bytes to the integer convolution. Where -b / a is no whole
number the rest r = b + a * zero_point goes into the bias, exactly.

The first convolution is also the slowest one in integers: three channels are too few for the
vector units. A frame row of W pixels of 3 channels is the same bytes as W / 4 groups of 12, so
where its stride is 2 (1 and 4 work alike) the convolution can look at groups and compute the two
neighbouring outputs of each at once, with a kernel widened by zeros. Again exact, and the
reshapes cost nothing in the layout (B, H, W, C) that onnxruntime chooses for integers.

Measured on a Xeon with VNNI, textbook network at 60 x 80: first convolution 62 -> 29 us, whole
int8 network 0.66 -> 0.44 of the float32 latency. Merging pixel pairs (6 channels) gained nothing,
and space-to-depth lost more in its transpose (37 us) than it gained.
"""

# Shapes: O output and C input channels, H and W height and width of the frame or the kernel,
# G groups under the widened kernel, B batch.

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

logger = logging.getLogger(__name__)

GROUP_PIXELS: Final = 4
"""Pixels looked at as one: 4 of 3 channels make 12, a multiple of the vector units' 4 bytes."""

_BEFORE_CONVOLUTION = ("Transpose", "Cast", "Mul", "Div", "Add", "Sub")
_NHWC_TO_NCHW = [0, 3, 1, 2]
_NCHW_TO_NHWC = [0, 2, 3, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _FirstConvolution:
    """What stands between the frames and the first features.

    Attributes:
        frames: Name of the graph's input.
        frame_shape: Height, width, channels.
        replaced: The nodes from the frames on; the last ones are the convolution and its Relu.
        scale: a of the scaled byte a * u + b.
        offset: b of the scaled byte a * u + b.
        weight_OCHW: The kernel.
        bias_O: Zeros where the convolution has none.
        strides: Vertical, horizontal.
        pads: Top, left, bottom, right.
    """

    frames: str
    frame_shape: tuple[int, int, int]
    replaced: tuple[onnx.NodeProto, ...]
    scale: float
    offset: float
    weight_OCHW: NDArray[np.float32]
    bias_O: NDArray[np.float32]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]

    @property
    def zero_point(self) -> int:
        """The byte nearest to a scaled value of zero."""
        return round(-self.offset / self.scale)

    @property
    def rest(self) -> float:
        """What a zero point of a whole number leaves for the bias."""
        return self.offset + self.scale * self.zero_point

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Height, width, channels of the features."""
        height, width, _ = self.frame_shape
        filters, _, kernel_height, kernel_width = self.weight_OCHW.shape
        top, left, bottom, right = self.pads
        return (
            (height + top + bottom - kernel_height) // self.strides[0] + 1,
            (width + left + right - kernel_width) // self.strides[1] + 1,
            filters,
        )


def start_from_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the scaling before the first convolution by one DequantizeLinear.

    Args:
        model: As `onnx_export.export_onnx` writes it; left as it is.

    Returns:
        The same function of the frames, up to float rounding. Networks that do not begin as
        described above come back unchanged.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    first = _first_convolution(changed.graph)
    if first is None:
        logger.info("the network does not begin with a plain convolution: its input stays float")
        return changed
    _rewrite(changed.graph, first)
    return changed


def cast_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn the bytes into floats before anything else is done with them; `model` is left as it is.

    TensorRT takes bytes as an input and can cast them, but neither transpose nor dequantize them:
    its 8-bit integers are signed and symmetric.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    first = _only_consumer(changed.graph, changed.graph.input[0].name)
    second = _only_consumer(changed.graph, first.output[0]) if first is not None else None
    if first is None or second is None or (first.op_type, second.op_type) != ("Transpose", "Cast"):
        return changed
    transpose, cast = onnx.NodeProto(), onnx.NodeProto()
    transpose.CopyFrom(first)
    cast.CopyFrom(second)
    cast.input[0], cast.output[0] = first.input[0], first.output[0]
    transpose.input[0], transpose.output[0] = first.output[0], second.output[0]
    first.CopyFrom(cast)
    second.CopyFrom(transpose)
    del changed.graph.value_info[:]
    return changed


def new_tensors(prepared: onnx.ModelProto) -> dict[str, str]:
    """Tensors that `start_from_bytes` brought in, and the old one that holds the same values.

    Those from the convolution on are the first features in another order, or before their Relu,
    which quantization merges with the convolution.
    """
    added = [node for node in prepared.graph.node if node.name.startswith("camera.")]
    kinds = [node.op_type for node in added]
    if not added:
        return {}
    features = added[-1].output[0]
    behind = added[kinds.index("Conv") : -1]
    return {node.output[0]: features for node in behind}


def widened_kernel(weight_OCHW: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """The kernel over groups of four pixels, computing 4 / stride neighbouring outputs at once.

    Args:
        weight_OCHW: The kernel over single pixels.
        stride: Its horizontal stride: 1, 2 or 4.

    Returns:
        float32, shape (4 / stride * O, 4 * C, H, G); first axis in the order (output, O), second
        in the order (pixel, C).
    """
    outputs = GROUP_PIXELS // stride
    filters, channels, height, width = weight_OCHW.shape
    groups = math.ceil((stride * (outputs - 1) + width) / GROUP_PIXELS)
    wide = np.zeros((outputs, filters, channels, height, groups * GROUP_PIXELS), np.float32)
    for output in range(outputs):
        wide[output, ..., output * stride : output * stride + width] = weight_OCHW
    split = wide.reshape(outputs, filters, channels, height, groups, GROUP_PIXELS)
    shape = (outputs * filters, GROUP_PIXELS * channels, height, groups)
    return split.transpose(0, 1, 5, 2, 3, 4).reshape(shape)


def _first_convolution(graph: onnx.GraphProto) -> _FirstConvolution | None:
    """Read the beginning of the graph; None where it is not the one that can be rewritten."""
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    frames = graph.input[0]
    chain: list[onnx.NodeProto] = []
    scale, offset = 1.0, 0.0
    node = _only_consumer(graph, frames.name)
    while node is not None and node.op_type in _BEFORE_CONVOLUTION:
        if node.op_type not in ("Transpose", "Cast"):
            step = _affine(node, constants)
            if step is None:
                return None
            scale, offset = scale * step[0], offset * step[0] + step[1]
        chain.append(node)
        node = _only_consumer(graph, node.output[0])
    kinds = [link.op_type for link in chain]
    if node is None or node.op_type != "Conv" or kinds[:2] != ["Transpose", "Cast"]:
        return None
    if "Transpose" in kinds[2:] or _attributes(chain[0])["perm"] != _NHWC_TO_NCHW:
        return None
    settings, weight = _attributes(node), constants.get(node.input[1])
    if weight is None or weight.ndim != 4 or not _is_plain(settings):
        return None
    bias = constants.get(node.input[2]) if len(node.input) > 2 else np.zeros(len(weight))
    if bias is None:
        return None
    chain.append(node)
    behind = _only_consumer(graph, node.output[0])
    if behind is not None and behind.op_type == "Relu":
        chain.append(behind)
    height, width, channels = (dim.dim_value for dim in frames.type.tensor_type.shape.dim[1:])
    vertical, horizontal = settings.get("strides", (1, 1))
    top, left, bottom, right = settings.get("pads", (0, 0, 0, 0))
    first = _FirstConvolution(
        frames=frames.name,
        frame_shape=(height, width, channels),
        replaced=tuple(chain),
        scale=scale,
        offset=offset,
        weight_OCHW=weight.astype(np.float32),
        bias_O=bias.astype(np.float32),
        strides=(vertical, horizontal),
        pads=(top, left, bottom, right),
    )
    return first if _is_exact(first) else None


def _affine(
    node: onnx.NodeProto, constants: Mapping[str, NDArray[Any]]
) -> tuple[float, float] | None:
    """Factor and summand of a step with one scalar constant; None where it is no such step."""
    constant = next((constants[name] for name in node.input if name in constants), None)
    if constant is None or constant.size != 1 or len(node.input) != 2:
        return None
    value, comes_first = float(constant.item()), node.input[0] in constants
    if node.op_type == "Mul":
        return value, 0.0
    if node.op_type == "Add":
        return 1.0, value
    if node.op_type == "Sub":
        return (-1.0, value) if comes_first else (1.0, -value)
    return None if comes_first or value == 0.0 else (1.0 / value, 0.0)


def _is_plain(settings: Mapping[str, Any]) -> bool:
    plain: dict[str, object] = {"group": 1, "dilations": [1, 1], "auto_pad": b"NOTSET"}
    return all(settings.get(name, value) == value for name, value in plain.items())


def _is_exact(first: _FirstConvolution) -> bool:
    """Whether a byte with zero point says the same; padding knows nothing of a rest."""
    if not (math.isfinite(first.scale) and first.scale > 0.0 and math.isfinite(first.offset)):
        return False
    if not 0 <= first.zero_point <= 255:
        return False
    return abs(first.rest) < 1e-6 * first.scale or not any(first.pads)


def _can_be_grouped(first: _FirstConvolution) -> bool:
    """Whether groups of four pixels give exactly the features of the plain convolution."""
    _, left, _, right = first.pads
    _, width, _ = first.frame_shape
    stride = first.strides[1]
    if left or right or width % GROUP_PIXELS or GROUP_PIXELS % stride:
        return False
    outputs = GROUP_PIXELS // stride
    groups = widened_kernel(first.weight_OCHW, stride).shape[3]
    return bool((width // GROUP_PIXELS - groups + 1) * outputs == first.output_shape[1])


def _rewrite(graph: onnx.GraphProto, first: _FirstConvolution) -> None:
    """Put the new beginning in the place of the old one."""
    grouped = _can_be_grouped(first)
    height, width, channels = first.frame_shape
    weight_OCHW, horizontal = first.weight_OCHW, first.strides[1]
    bias_O = first.bias_O + np.float32(first.rest) * weight_OCHW.sum(axis=(1, 2, 3))
    if grouped:
        weight_OCHW = widened_kernel(weight_OCHW, horizontal)
        bias_O = np.tile(bias_O, GROUP_PIXELS // horizontal)
    constants = {
        "camera.scale": np.asarray(first.scale, np.float32),
        "camera.zero_point": np.asarray(first.zero_point, np.uint8),
        "camera.weight": weight_OCHW,
        "camera.bias": bias_O.astype(np.float32),
        "camera.groups": np.asarray(
            [0, height, width // GROUP_PIXELS, channels * GROUP_PIXELS], np.int64
        ),
        "camera.features": np.asarray([0, *first.output_shape], np.int64),
    }
    steps = [
        ("Transpose", (), {"perm": _NHWC_TO_NCHW}),
        ("DequantizeLinear", ("camera.scale", "camera.zero_point"), {}),
        (
            "Conv",
            ("camera.weight", "camera.bias"),
            {
                "kernel_shape": list(weight_OCHW.shape[2:]),
                "strides": [first.strides[0], 1 if grouped else horizontal],
                "pads": list(first.pads),
            },
        ),
    ]
    if first.replaced[-1].op_type == "Relu":
        steps.append(("Relu", (), {}))
    if grouped:
        steps.insert(0, ("Reshape", ("camera.groups",), {}))
        steps.append(("Transpose", (), {"perm": _NCHW_TO_NHWC}))
        steps.append(("Reshape", ("camera.features",), {}))
        steps.append(("Transpose", (), {"perm": _NHWC_TO_NCHW}))
    nodes = _chain(first.frames, steps, first.replaced[-1].output[0])
    kept = [node for node in graph.node if node not in first.replaced]
    del graph.node[:]
    graph.node.extend([*nodes, *kept])
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value), name)
        for name, value in constants.items()
    )
    drop_unused(graph)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove constants that no node reads, and what is noted about tensors in between."""
    read = {name for node in graph.node for name in node.input}
    kept = [item for item in graph.initializer if item.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]


def _chain(
    start: str, steps: Sequence[tuple[str, tuple[str, ...], dict[str, Any]]], end: str
) -> list[onnx.NodeProto]:
    """Nodes one after the other, each with its constants and attributes."""
    names = [start, *(f"camera.step{number}" for number in range(1, len(steps))), end]
    return [
        helper.make_node(
            kind, [before, *constants], [after], name=f"camera.{kind}{number}", **attributes
        )
        for number, ((kind, constants, attributes), before, after) in enumerate(
            zip(steps, names, names[1:], strict=False), 1
        )
    ]


def _only_consumer(graph: onnx.GraphProto, tensor: str) -> onnx.NodeProto | None:
    """The one node that reads a tensor; None where there are several or it leaves the graph."""
    readers = [node for node in graph.node if tensor in node.input]
    leaves = any(value.name == tensor for value in graph.output)
    return readers[0] if len(readers) == 1 and not leaves else None


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}
