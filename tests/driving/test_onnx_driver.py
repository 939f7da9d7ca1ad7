"""A released file runs on one thread without torch, and anything else is refused."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from convoy_driving.errors import ModelFileError
from convoy_driving.onnx_driver import OnnxDriver


def write_model(path, *, kind=TensorProto.UINT8, outputs=("steering", "throttle"), channels=3):
    """Steering: how bright left, middle and right columns are; throttle: the mean of that."""
    nodes = [
        helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "all"], ["columns"], keepdims=0),
        helper.make_node("Softmax", ["columns"], [outputs[0]], axis=1),
        helper.make_node("ReduceMean", [outputs[0], "one"], [outputs[1]], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "driver",
        [helper.make_tensor_value_info("frames", kind, ["batch", 2, 3, channels])],
        [
            helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info(outputs[1], TensorProto.FLOAT, ["batch"]),
        ],
        [
            helper.make_tensor("all", TensorProto.INT64, [2], [1, 3]),
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"convoy.schema": "convoy.model/1"})
    onnx.save(model, path)
    return path


def test_a_released_file_predicts_probabilities_and_throttle(tmp_path):
    driver = OnnxDriver(write_model(tmp_path / "model.onnx"))
    frames_BHWC = np.zeros((4, 2, 3, 3), np.uint8)
    frames_BHWC[:, :, 2] = 9  # the road goes right

    steering_B3, throttle_B = driver.predict(frames_BHWC)

    assert steering_B3.shape == (4, 3)
    assert steering_B3.argmax(axis=1).tolist() == [2, 2, 2, 2]
    assert throttle_B.tolist() == pytest.approx([1 / 3] * 4)
    assert (driver.frame_height, driver.frame_width) == (2, 3)
    assert driver.metadata == {"convoy.schema": "convoy.model/1"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": TensorProto.INT8}, r"expected frames of uint8 .* got tensor\(int8\)"),
        ({"channels": 1}, "expected frames of uint8"),
        ({"outputs": ("angle", "throttle")}, "outputs steering, throttle, got frames and angle"),
    ],
)
def test_another_model_is_refused_with_what_was_expected(tmp_path, settings, message):
    path = write_model(tmp_path / "model.onnx", **settings)

    with pytest.raises(ModelFileError, match=message):
        OnnxDriver(path)


def test_a_file_that_is_not_onnx_or_not_there_is_one_named_error(tmp_path):
    (tmp_path / "torn.onnx").write_bytes(b"\x08\x08torn")

    with pytest.raises(ModelFileError, match=r"torn\.onnx: onnxruntime cannot load it"):
        OnnxDriver(tmp_path / "torn.onnx")
    with pytest.raises(ModelFileError, match=r"absent\.onnx: no such file"):
        OnnxDriver(tmp_path / "absent.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["convoy_driving.onnx_driver", "convoy_driving.commands"])
def test_what_runs_on_a_vehicle_imports_neither_torch_nor_flower(module):
    code = f"import {module}, sys; sys.exit(bool({{'torch', 'flwr'}} & set(sys.modules)))"

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
