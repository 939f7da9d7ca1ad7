"""A vehicle tells ranges; the server quantizes without a frame."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from small_driver import HEIGHT, WIDTH, SmallDriver, SmallNetwork, road_frames

from convoy_compression.model.errors import CalibrationError, QuantizationError
from convoy_compression.model.onnx_export import export_onnx
from convoy_compression.model.quantization import quantize_int8
from convoy_compression.model.range_observer import observer_of
from convoy_compression.model.tensor_ranges import TensorRanges, observe


def ranges(low, high, names=("first", "second")):
    return TensorRanges(names=names, low_T=np.float32(low), high_T=np.float32(high))


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ([0.0, np.nan], [1.0, 1.0]),
        ([0.0, 0.0], [1.0, np.inf]),
        ([0.0, 2.0], [1.0, 1.0]),  # upside down
        ([0.0, 0.0], [1.0, 3e38]),
        ([0.0, -2e6], [1.0, 1.0]),
    ],
)
def test_what_is_no_range_is_refused_with_the_tensors_name(low, high):
    with pytest.raises(CalibrationError, match="second: a range from"):
        ranges(low, high)


def test_a_tensor_without_a_range_is_refused():
    with pytest.raises(CalibrationError, match="expected 2 ranges"):
        ranges([0.0], [1.0, 2.0])


@pytest.mark.parametrize("observer", [b"", b"<html>", b"\x08\x08torn"])
def test_what_is_no_observer_is_one_named_error(observer):
    with pytest.raises(CalibrationError, match="does not run on these frames"):
        observe(observer, road_frames(2))


@pytest.fixture(scope="module")
def fp32():
    driver = SmallDriver(SmallNetwork(channels=(16, 32))).eval()
    return export_onnx(driver, HEIGHT, WIDTH, {})


@pytest.fixture(scope="module")
def observer(fp32):
    return observer_of(fp32).SerializeToString(deterministic=True)


@pytest.mark.slow
def test_the_extremes_are_those_of_the_tensors(fp32, observer):
    shown = onnx.shape_inference.infer_shapes(fp32)
    (relu, *_) = [node.output[0] for node in shown.graph.node if node.op_type == "Relu"]
    shown.graph.output.extend(value for value in shown.graph.value_info if value.name == relu)
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    frames = road_frames(40)

    found = observe(observer, frames)

    (expected,) = session.run([relu], {"frames": frames})
    place = found.names.index(relu)
    assert found.low_T[place] == expected.min() == 0.0
    assert found.high_T[place] == pytest.approx(expected.max(), rel=1e-6)


@pytest.mark.slow
def test_nothing_but_two_numbers_a_tensor_comes_back(observer):
    session = onnxruntime.InferenceSession(observer, providers=["CPUExecutionProvider"])
    count = len(observe(observer, road_frames(1)).names)

    assert [(output.name, output.shape) for output in session.get_outputs()] == [
        ("low", [count]),
        ("high", [count]),
    ]


@pytest.mark.slow
def test_the_observer_leaves_the_network_as_it_is(fp32):
    before = fp32.SerializeToString(deterministic=True)

    observer_of(fp32)

    assert fp32.SerializeToString(deterministic=True) == before


@pytest.mark.slow
def test_frames_of_another_size_are_refused(observer):
    with pytest.raises(CalibrationError, match="does not run on these frames"):
        observe(observer, np.zeros((2, 8, 8, 3), np.uint8))


@pytest.mark.slow
def test_ranges_of_another_network_do_not_quantize_this_one(fp32):
    with pytest.raises(QuantizationError, match="cannot quantize"):
        quantize_int8(fp32, ranges([0.0, 0.0], [1.0, 1.0]), {})


@pytest.mark.slow
def test_a_vehicle_that_tells_ranges_needs_neither_onnx_nor_torch():
    code = (
        "import convoy_compression.model.tensor_ranges, sys;"
        "sys.exit(bool({'onnx', 'torch', 'flwr'} & set(sys.modules)))"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
