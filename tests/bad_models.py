"""ONNX files that are not what they seem, each with the check that must refuse it.

Source: the list of bad inputs that was measured on onnxruntime 1.31; most of these load there, and
many of them run.
"""

import copy

import numpy as np
import onnx
import small_release
from onnx import TensorProto, helper, numpy_helper


def _changed(change):
    made = small_release.model()
    change(made)
    return made.SerializeToString()


def _fill(made, name, value):
    (tensor,) = [item for item in made.graph.initializer if item.name == name]
    values = np.full(tuple(tensor.dims), value, np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def _opset(version):
    def change(made):
        made.opset_import[0].version = version

    return _changed(change)


def _ir(version):
    return _changed(lambda made: setattr(made, "ir_version", version))


def _custom_operator():
    def change(made):
        made.graph.node[0].domain = "com.evil"
        made.opset_import.append(helper.make_opsetid("com.evil", 1))

    return _changed(change)


def _other_input_name():
    def change(made):
        made.graph.input[0].name = made.graph.node[0].input[0] = "img"

    return _changed(change)


def _size(axis, size):
    def change(made):
        made.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size

    return _changed(change)


def _external(location):
    def change(made):
        tensor = made.graph.initializer[1]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "432")):
            tensor.external_data.add(key=key, value=value)

    return _changed(change)


def _graph(nodes, inputs, outputs, constants):
    graph = helper.make_graph(
        nodes,
        "bad",
        inputs,
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return made.SerializeToString()


def endless_loop():
    """The driver, with a loop in front that never ends."""
    kinds = {"trip": TensorProto.INT64, "go": TensorProto.BOOL, "go_on": TensorProto.BOOL}
    values = {name: helper.make_tensor_value_info(name, kind, []) for name, kind in kinds.items()}
    picture = [
        helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in ("seen", "shown")
    ]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Identity", ["seen"], ["shown"]),
        ],
        "body",
        [values["trip"], values["go"], picture[0]],
        [values["go_on"], picture[1]],
    )
    loop = helper.make_node("Loop", ["", "true", "frames"], ["looped"], body=body)
    made = small_release.model(extra_nodes=[loop], extra_constants={"true": np.array(True)})
    cast = next(node for node in made.graph.node if node.op_type == "Cast")
    cast.input[0] = "looped"
    return made.SerializeToString()


def memory_bomb_of_allowed_operators():
    """The driver, with a terabyte in front that it does not even need: Expand is on the list."""
    nodes = [
        helper.make_node("Expand", ["one", "huge"], ["wide"]),
        helper.make_node("ReduceMean", ["wide"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["one", "mean"], ["factor"]),
    ]
    constants = {
        "one": np.ones(1, np.float32),
        "huge": np.array([100_000, 100_000, 25], np.int64),
    }
    made = small_release.model(extra_nodes=nodes, extra_constants=constants)
    scale = next(node for node in made.graph.node if node.output[0] == "scaled")
    scale.output[0] = "half_scaled"
    made.graph.node.insert(
        list(made.graph.node).index(scale) + 1,
        helper.make_node("Mul", ["half_scaled", "factor"], ["scaled"]),
    )
    return made.SerializeToString()


def _memory_bomb():
    constant = helper.make_node("ConstantOfShape", ["shape"], ["throttle"])
    return _graph(
        [constant],
        [],
        [helper.make_tensor_value_info("throttle", TensorProto.FLOAT, None)],
        {"shape": np.array([200_000, 200_000, 10], np.int64)},
    )


def _claims_more_than_it_stores():
    def change(made):
        made.graph.initializer[1].dims[0] = 2**40

    return _changed(change)


def _axes(*sizes):
    def change(made):
        del made.graph.initializer[1].dims[:]
        made.graph.initializer[1].dims.extend(sizes)

    return _changed(change)


def _function():
    def change(made):
        function = made.functions.add(name="Relu", domain="", output=["y"], input=["x"])
        function.opset_import.append(helper.make_opsetid("", 18))

    return _changed(change)


def _infinite_attribute():
    def change(made):
        gemm = next(node for node in made.graph.node if node.op_type == "Gemm")
        gemm.attribute.append(helper.make_attribute("alpha", float("inf")))

    return _changed(change)


def _double_weights():
    def change(made):
        values = numpy_helper.to_array(made.graph.initializer[1]).astype(np.float64)
        made.graph.initializer[1].CopyFrom(numpy_helper.from_array(values, "kernel"))

    return _changed(change)


def _no_schema():
    return _changed(lambda made: made.ClearField("metadata_props"))


def _rotten():
    content = bytearray(SOUND)
    for place in np.random.default_rng(1).integers(0, len(content), 200):
        content[place] ^= 0xFF
    return bytes(content)


SOUND = small_release.model().SerializeToString()

BAD_MODELS = {
    "empty": (b"", "format"),
    "captive_portal": (b"<html>log in to the network</html>", "format"),
    "random": (np.random.default_rng(0).bytes(5000), "format"),
    "truncated": (SOUND[: len(SOUND) // 2], "format"),
    "rotten": (_rotten(), "format"),
    "opset_99": (_opset(99), "format"),
    "opset_27": (_opset(27), "format"),  # the onnx checker takes it
    "opset_of_the_past": (_opset(9), "format"),
    "ir_99": (_ir(99), "format"),
    "function": (_function(), "format"),
    "custom_operator": (_custom_operator(), "operators"),
    "infinite_attribute": (_infinite_attribute(), "operators"),
    "endless_loop": (endless_loop(), "operators"),
    "memory_bomb": (_memory_bomb(), "operators"),
    "external_traversal": (_external("../../secret"), "external data"),
    "external_absolute": (_external("/etc/hostname"), "external data"),
    "external_missing": (_external("nothere.bin"), "external data"),
    "nan_weights": (_changed(lambda made: _fill(made, "kernel", np.nan)), "weights"),
    "infinite_weights": (_changed(lambda made: _fill(made, "kernel", np.inf)), "weights"),
    "weights_of_3e38": (_changed(lambda made: _fill(made, "kernel", 3e38)), "weights"),
    "claims_more_than_it_stores": (_claims_more_than_it_stores(), "weights"),
    "axes_without_end": (_axes(*[2**62] * 2000), "weights"),
    "negative_axes": (_axes(-4, 3, -3, 3), "weights"),
    "double_weights": (_double_weights(), "weights"),
    "other_input_name": (_other_input_name(), "contract"),
    "wrong_height": (_size(1, 240), "contract"),
    "one_channel": (_size(3, 1), "contract"),
    "batch_of_16": (_size(0, 16), "contract"),
    "no_schema": (_no_schema(), "contract"),
}
"""Content, and the check that refuses it."""


def flipped_bit() -> bytes:
    """Loads, runs, drives plausibly: only the hash tells."""
    made = copy.deepcopy(small_release.model())
    (kernel,) = [item for item in made.graph.initializer if item.name == "kernel"]
    place = SOUND.index(kernel.raw_data)
    content = bytearray(SOUND)
    content[place + 3] ^= 1  # the exponent of the first weight
    onnx.checker.check_model(bytes(content), full_check=True)
    return bytes(content)
