"""Starting from the camera's bytes changes no answer."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from convoy_compression.model.camera_input import start_from_bytes, widened_kernel

CENTRED = (("Div", 255.0, False), ("Mul", 2.0, False), ("Sub", 1.0, False))


def network(
    *,
    height=12,
    width=16,
    kernel=(5, 5),
    strides=(2, 2),
    pads=(0, 0, 0, 0),
    scaling=CENTRED,
    relu=True,
    bias=True,
    group=1,
    seed=0,
):
    """Frames -> Transpose -> Cast -> scaling -> Conv (-> Relu) -> features."""
    rng = np.random.default_rng(seed)
    constants = {"weight": rng.normal(size=(4, 3 // group, *kernel))}
    if bias:
        constants["bias"] = rng.normal(size=4)
    nodes = [
        helper.make_node("Transpose", ["frames"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["x0"], to=TensorProto.FLOAT),
    ]
    for number, (kind, constant, comes_first) in enumerate(scaling):
        constants[f"c{number}"] = np.asarray(constant)
        names = [f"x{number}", f"c{number}"]
        nodes.append(
            helper.make_node(kind, names[::-1] if comes_first else names, [f"x{number + 1}"])
        )
    nodes.append(
        helper.make_node(
            "Conv",
            [f"x{len(scaling)}", "weight", *(["bias"] if bias else [])],
            ["raw" if relu else "features"],
            kernel_shape=kernel,
            strides=strides,
            pads=pads,
            group=group,
        )
    )
    if relu:
        nodes.append(helper.make_node("Relu", ["raw"], ["features"]))
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", height, width, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 4, None, None])],
        [
            numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in constants.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def answers(model, frames):
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"frames": frames})[0]


def operators(model):
    return [node.op_type for node in model.graph.node]


SHAPES = st.fixed_dictionaries(
    {
        "height": st.integers(8, 14),
        "width": st.sampled_from([8, 12, 15, 16, 20]),
        "kernel": st.tuples(st.integers(1, 5), st.integers(1, 7)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 4)),
        "pads": st.sampled_from([(0, 0, 0, 0), (1, 0, 1, 0), (2, 2, 2, 2)]),
        "relu": st.booleans(),
        "bias": st.booleans(),
        "seed": st.integers(0, 100),
    }
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(shape=SHAPES)
def test_the_answers_stay_whatever_the_first_convolution(shape):
    model = network(**shape)
    frames = np.random.default_rng(shape["seed"]).integers(
        0, 256, (3, shape["height"], shape["width"], 3), dtype=np.uint8
    )

    changed = start_from_bytes(model)

    np.testing.assert_allclose(answers(changed, frames), answers(model, frames), atol=2e-4)


@pytest.mark.parametrize(
    "scaling",
    [
        CENTRED,
        (("Div", 255.0, False),),  # 0..1
        (("Mul", 1 / 255.0, True),),  # the constant may stand first
        (("Div", 255.0, False), ("Mul", 2.0, False), ("Add", -1.0, True)),
        (),  # bytes as they are
    ],
)
def test_every_way_to_scale_becomes_one_dequantize(scaling):
    model = network(scaling=scaling)
    frames = np.random.default_rng(1).integers(0, 256, (2, 12, 16, 3), dtype=np.uint8)

    changed = start_from_bytes(model)

    assert operators(changed)[:4] == ["Reshape", "Transpose", "DequantizeLinear", "Conv"]
    assert not {"Cast", "Mul", "Div", "Add", "Sub"} & set(operators(changed))
    np.testing.assert_allclose(
        answers(changed, frames), answers(model, frames), rtol=1e-4, atol=2e-4
    )


@pytest.mark.parametrize(
    "model",
    [
        network(group=1, pads=(2, 2, 2, 2)),  # padding knows nothing of the rest in the bias
        network(scaling=(("Sub", 1.0, True),)),  # a falling line: the scale would be negative
        network(scaling=(("Sub", 300.0, False),)),  # the zero point would be no byte
        network(scaling=(("Div", 255.0, True),)),  # no line at all
    ],
    ids=["padded", "falling", "beyond", "reciprocal"],
)
def test_what_a_byte_cannot_say_exactly_stays_float(model):
    assert start_from_bytes(model).SerializeToString() == model.SerializeToString()


def test_the_model_handed_in_is_left_as_it_is():
    model = network()
    before = model.SerializeToString()

    start_from_bytes(model)

    assert model.SerializeToString() == before


def test_a_widened_kernel_holds_each_output_at_its_place():
    weight = np.arange(1, 6, dtype=np.float32).reshape(1, 1, 1, 5)

    wide = widened_kernel(weight, stride=2)

    assert wide.shape == (2, 4, 1, 2)  # two outputs, four pixels, one row, two groups
    assert wide[0, :, 0].T.reshape(-1).tolist() == [1, 2, 3, 4, 5, 0, 0, 0]
    assert wide[1, :, 0].T.reshape(-1).tolist() == [0, 0, 1, 2, 3, 4, 5, 0]
