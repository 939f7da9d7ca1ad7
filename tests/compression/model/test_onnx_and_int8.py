"""From a torch network to three ONNX files of the same contract."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from small_driver import HEIGHT, WIDTH, SmallDriver, SmallNetwork, road_frames
from torch import nn

from convoy_compression.model.errors import CalibrationError, ExportError, QuantizationError
from convoy_compression.model.onnx_export import export_onnx
from convoy_compression.model.parity import compare
from convoy_compression.model.quantization import (
    quantize_for_tensorrt,
    quantize_int8,
    ranges_from_frames,
)

pytestmark = pytest.mark.slow  # the first export alone takes seconds

METADATA = {"convoy.schema": "convoy.model/1", "convoy.round": "7"}


@pytest.fixture(scope="module")
def driver():
    return SmallDriver(SmallNetwork(channels=(16, 32))).eval()


@pytest.fixture(scope="module")
def fp32(driver):
    return export_onnx(driver, HEIGHT, WIDTH, METADATA)


@pytest.fixture(scope="module")
def int8(fp32):
    return quantize_int8(fp32, ranges_of(fp32), METADATA | {"convoy.precision": "int8"})


@pytest.fixture(scope="module")
def trt(fp32):
    return quantize_for_tensorrt(fp32, ranges_of(fp32), METADATA | {"convoy.precision": "int8"})


def ranges_of(model, count=32):
    return ranges_from_frames(model, road_frames(count))


def session(model):
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def predictor(model):
    loaded = session(model)
    return lambda frames: tuple(loaded.run(["steering", "throttle"], {"frames": frames}))


def torch_predictor(driver):
    def predict(frames):
        with torch.no_grad():
            steering, throttle = driver(torch.from_numpy(frames))
        return steering.numpy(), throttle.numpy()

    return predict


@pytest.mark.parametrize("name", ["fp32", "int8", "trt"])
def test_every_file_has_the_contract_of_a_vehicle(name, request):
    model = request.getfixturevalue(name)
    loaded = session(model)

    (frames,) = loaded.get_inputs()
    assert (frames.name, frames.type, frames.shape) == (
        "frames",
        "tensor(uint8)",
        ["batch", HEIGHT, WIDTH, 3],
    )
    assert [(output.name, output.type) for output in loaded.get_outputs()] == [
        ("steering", "tensor(float)"),
        ("throttle", "tensor(float)"),
    ]
    assert model.ir_version == 8
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 18)}
    assert METADATA.items() <= loaded.get_modelmeta().custom_metadata_map.items()
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("count", [1, 3, 70])
def test_the_float_file_answers_as_torch_does_for_any_batch(driver, fp32, count):
    parity = compare(torch_predictor(driver), predictor(fp32), road_frames(count))

    assert parity.max_difference < 1e-5
    assert parity.class_agreement == 1.0


@pytest.mark.parametrize("name", ["int8", "trt"])
def test_probabilities_of_an_int8_file_add_up_and_agree(fp32, name, request):
    quantized = request.getfixturevalue(name)
    frames = road_frames(200, seed=1)

    steering, _ = predictor(quantized)(frames)
    parity = compare(predictor(fp32), predictor(quantized), frames)

    np.testing.assert_allclose(steering.sum(axis=1), 1.0, atol=1e-5)
    assert parity.class_agreement > 0.95
    assert parity.max_difference < 0.2  # without VNNI 8-bit sums may saturate


def test_the_weights_of_the_int8_file_are_bytes(fp32, int8):
    largest = max(int8.graph.initializer, key=lambda item: np.prod(item.dims))

    assert numpy_helper.to_array(largest).dtype == np.int8
    assert int8.ByteSize() < 0.35 * fp32.ByteSize()
    assert not any(node.op_type == "Cast" for node in int8.graph.node)  # bytes go straight in


def test_what_tensorrt_gets_is_signed_and_symmetric(fp32, trt):
    constants = {item.name: numpy_helper.to_array(item) for item in trt.graph.initializer}
    pairs = [
        node for node in trt.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    zero_points = [constants[node.input[2]] for node in pairs]

    assert pairs
    assert all(values.dtype == np.int8 and not values.any() for values in zero_points)
    assert not any(values.dtype == np.int32 for values in constants.values())  # bias stays float
    assert trt.ByteSize() < 0.35 * fp32.ByteSize()


def test_tensorrt_casts_the_bytes_first_and_keeps_each_relu_with_its_convolution(trt):
    readers = {}
    for node in trt.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)

    assert readers["frames"] == ["Cast"]
    behind = [readers[node.output[0]] for node in trt.graph.node if node.op_type == "Conv"]
    assert behind == [["Relu"]] * 2


def test_seven_bit_weights_leave_room_for_the_sum(fp32):
    def largest_weight(model):
        weights = [numpy_helper.to_array(item) for item in model.graph.initializer]
        return max(int(np.abs(w.astype(int)).max()) for w in weights if w.dtype == np.int8)

    seven = quantize_int8(fp32, ranges_of(fp32), {}, seven_bit_weights=True)
    eight = quantize_int8(fp32, ranges_of(fp32), {})

    assert largest_weight(seven) == 64
    assert largest_weight(eight) == 127


def test_nothing_tells_where_a_file_was_made(fp32, int8, trt):
    for model in (fp32, int8, trt):
        content = model.SerializeToString()

        assert str(Path(__file__).parents[3]).encode() not in content
        assert b"stack_trace" not in content
        assert b".py" not in content


def test_the_same_network_gives_the_same_bytes(driver, fp32, int8, trt):
    again = export_onnx(driver, HEIGHT, WIDTH, METADATA)
    metadata = METADATA | {"convoy.precision": "int8"}
    ranges = ranges_of(again)
    made_again = (
        again,
        quantize_int8(again, ranges, metadata),
        quantize_for_tensorrt(again, ranges, metadata),
    )

    for first, second in zip((fp32, int8, trt), made_again, strict=True):
        assert second.SerializeToString(deterministic=True) == first.SerializeToString(
            deterministic=True
        )


def test_another_process_makes_the_same_bytes():
    """Python orders sets by a seed that every process draws anew."""
    code = """
import hashlib
from small_driver import HEIGHT, WIDTH, SmallDriver, SmallNetwork, road_frames
from convoy_compression.model.onnx_export import export_onnx
from convoy_compression.model.quantization import *

fp32 = export_onnx(SmallDriver(SmallNetwork()).eval(), HEIGHT, WIDTH, {"b": "1", "a": "2"})
ranges = ranges_from_frames(fp32, road_frames(8))
for model in (fp32, quantize_int8(fp32, ranges, {}), quantize_for_tensorrt(fp32, ranges, {})):
    print(hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest())
"""
    tests = str(Path(__file__).parents[2])

    first, second = (
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env=os.environ
            | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([tests, *sys.path])},
            check=True,
            timeout=100,
            stdout=subprocess.PIPE,
        ).stdout
        for seed in ("1", "2")
    )

    assert first == second
    assert len(set(first.split())) == 3


def test_the_exporter_keeps_its_advice_to_itself(driver, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        export_onnx(driver, HEIGHT, WIDTH, METADATA)

    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_quantization_says_nothing_on_the_root_logger(fp32, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        ranges = ranges_of(fp32)
        quantize_int8(fp32, ranges, METADATA)
        quantize_for_tensorrt(fp32, ranges, METADATA)

    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_the_float_model_is_left_as_it_is(fp32):
    before = fp32.SerializeToString(deterministic=True)

    ranges = ranges_of(fp32)
    quantize_int8(fp32, ranges, {})
    quantize_for_tensorrt(fp32, ranges, {})

    assert fp32.SerializeToString(deterministic=True) == before


def test_nan_weights_are_refused_by_name(fp32):
    broken = onnx.ModelProto()
    broken.CopyFrom(fp32)
    weight = next(item for item in broken.graph.initializer if "0.weight" in item.name)
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))

    with pytest.raises(QuantizationError, match=r"0\.weight holds NaN"):
        quantize_for_tensorrt(broken, ranges_of(fp32), {})


def test_frames_of_another_size_cannot_calibrate(fp32):
    with pytest.raises(CalibrationError, match="does not run on these frames"):
        ranges_from_frames(fp32, np.zeros((4, 8, 8, 3), np.uint8))


def test_no_frames_to_calibrate_with_are_a_mistake(fp32):
    with pytest.raises(ValueError, match="at least one frame"):
        ranges_of(fp32, 0)


def test_a_network_that_torch_cannot_trace_is_refused():
    class Undecided(nn.Module):
        def forward(self, frames):
            if frames.float().sum() > 0:
                return frames.float()[:, 0, 0], frames.float()[:, 0, 0, 0]
            return frames.float()[:, 1, 1], frames.float()[:, 1, 1, 1]

    with pytest.raises(ExportError, match="torch cannot export"):
        export_onnx(Undecided(), HEIGHT, WIDTH, {})
