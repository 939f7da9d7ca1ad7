"""A network that tells the range of each of its tensors: what calibration by vehicles sends out.

    frames -> the network -> ReduceMin, ReduceMax of every float tensor -> low (T,), high (T,)

The network's own outputs are gone, so nothing but 2 T numbers can come back. The rest of the graph is
the float32 network as exported: a vehicle examines it as it examines a release.
"""

import json
from typing import Final

import onnx
from onnx import TensorProto, helper

from convoy_compression.model.onnx_export import set_metadata
from convoy_compression.model.tensor_ranges import HIGH, LOW, TENSORS_KEY

_REDUCTIONS: Final = {LOW: "ReduceMin", HIGH: "ReduceMax"}


def observer_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """The observer of a float32 network of the contract in `onnx_export`, which is left as it is.

    Only the extremes over a whole batch come out, never those of a channel or a place in the picture.
    """
    observer = onnx.shape_inference.infer_shapes(model)
    graph = observer.graph
    tensors = _float_tensors(graph)
    del graph.output[:]
    del graph.value_info[:]
    graph.initializer.append(helper.make_tensor("observer.one", TensorProto.INT64, [1], [1]))
    for output, reduction in _REDUCTIONS.items():
        found = []
        for number, tensor in enumerate(tensors):
            scalar, row = f"observer.{output}{number}.scalar", f"observer.{output}{number}"
            graph.node.append(helper.make_node(reduction, [tensor], [scalar], keepdims=0))
            graph.node.append(helper.make_node("Reshape", [scalar, "observer.one"], [row]))
            found.append(row)
        graph.node.append(helper.make_node("Concat", found, [output], axis=0))
        graph.output.append(
            helper.make_tensor_value_info(output, TensorProto.FLOAT, [len(tensors)])
        )
    set_metadata(observer, {TENSORS_KEY: json.dumps(tensors)})
    return observer


def observed_tensors(observer: onnx.ModelProto) -> tuple[str, ...]:
    """Whose ranges an observer tells."""
    metadata = {item.key: item.value for item in observer.metadata_props}
    return tuple(json.loads(metadata[TENSORS_KEY]))


def _float_tensors(graph: onnx.GraphProto) -> list[str]:
    """Every float32 tensor that a node makes, in the graph's order."""
    kinds = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)
    }
    return [
        name for node in graph.node for name in node.output if kinds.get(name) == TensorProto.FLOAT
    ]
