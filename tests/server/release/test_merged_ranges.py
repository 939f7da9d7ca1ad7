"""A poisoned range does not matter; too few vehicles are not a crowd."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_driver import HEIGHT, WIDTH, SmallDriver, SmallNetwork, road_frames

from convoy_compression.model.errors import CalibrationError
from convoy_compression.model.onnx_export import export_onnx
from convoy_compression.model.parity import compare
from convoy_compression.model.quantization import quantize_int8, ranges_from_frames
from convoy_compression.model.tensor_ranges import LARGEST, TensorRanges
from convoy_driving.onnx_driver import OnnxDriver
from convoy_server.release.merged_ranges import merge_ranges

NAMES = ("first", "second")


def ranges(low, high, names=NAMES):
    return TensorRanges(names=names, low_T=np.float32(low), high_T=np.float32(high))


def test_every_bound_is_the_median():
    told = {
        "car0": ranges([0.0, -1.0], [1.0, 5.0]),
        "car1": ranges([-2.0, 0.0], [2.0, 4.0]),
        "car2": ranges([3.0, -3.0], [6.0, 3.0]),
    }

    merged = merge_ranges(told, NAMES)

    assert merged.names == NAMES
    assert merged.low_T.tolist() == [0.0, -1.0]
    assert merged.high_T.tolist() == [2.0, 4.0]


def test_the_order_in_which_a_vehicle_names_its_tensors_does_not_matter():
    turned = ranges([-1.0, 0.0], [5.0, 1.0], names=NAMES[::-1])
    told = {"car0": turned, "car1": turned, "car2": turned}

    assert merge_ranges(told, NAMES).low_T.tolist() == [0.0, -1.0]


@given(
    honest=st.lists(st.tuples(st.floats(-9, 0, width=32), st.floats(0, 9, width=32)), min_size=3),
    low=st.floats(-LARGEST, 0, width=32),
    high=st.floats(0, LARGEST, width=32),
)
def test_a_minority_moves_no_bound_out_of_the_honest_ones(honest, low, high):
    told = {
        f"car{number}": ranges([least], [most], ("only",))
        for number, (least, most) in enumerate(honest)
    }
    for number in range((len(honest) - 1) // 2):
        told[f"liar{number}"] = ranges([low], [high], ("only",))

    merged = merge_ranges(told, ("only",))

    lows, highs = np.float32(honest).T
    assert lows.min() <= merged.low_T[0] <= lows.max()
    assert highs.min() <= merged.high_T[0] <= highs.max()


@pytest.mark.parametrize("count", [0, 2])
def test_too_few_vehicles_are_refused_with_the_way_out(count):
    told = {f"car{number}": ranges([0, 0], [1, 1]) for number in range(count)}

    with pytest.raises(CalibrationError, match=f"at least 3 vehicles, got {count}: wait until"):
        merge_ranges(told, NAMES)


def test_who_tells_of_another_network_does_not_count():
    told = {f"car{number}": ranges([0, 0], [1, 1]) for number in range(2)}
    told["car2"] = ranges([0, 0, 0], [1, 1, 1], names=(*NAMES, "third"))
    told["car3"] = ranges([0, 0], [1, 1], names=("first", "first"))

    with pytest.raises(CalibrationError, match="got 2"):
        merge_ranges(told, NAMES)


@pytest.mark.slow
def test_one_poisoned_vehicle_does_not_change_how_the_model_drives(tmp_path):
    fp32 = export_onnx(SmallDriver(SmallNetwork(channels=(16, 32))).eval(), HEIGHT, WIDTH, {})
    told = {f"car{seed}": ranges_from_frames(fp32, road_frames(16, seed)) for seed in range(3)}
    names = told["car0"].names
    huge_T = np.full(len(names), 1e4, np.float32)
    poisoned = told | {"liar": TensorRanges(names=names, low_T=-huge_T, high_T=huge_T)}
    frames = road_frames(200, seed=9)

    def change(ranges):
        paths = {"fp32": fp32, "int8": quantize_int8(fp32, ranges, {})}
        for name, model in paths.items():
            (tmp_path / name).write_bytes(model.SerializeToString())
        drivers = [OnnxDriver(tmp_path / name).predict for name in paths]
        return compare(*drivers, frames).mean_steering_change

    ruined = change(poisoned["liar"])  # what a min-max merge would give
    assert change(merge_ranges(told, names)) < 0.1 * ruined
    assert change(merge_ranges(poisoned, names)) < 0.1 * ruined
