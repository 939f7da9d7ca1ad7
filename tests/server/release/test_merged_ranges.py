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


def one(*pairs):
    """Vehicles that tell of one tensor."""
    return {
        f"car{number}": ranges([low], [high], ("only",)) for number, (low, high) in enumerate(pairs)
    }


@pytest.mark.parametrize(
    ("pairs", "merged"),
    [
        ([(-1, 1), (-2, 2), (-3, 3)], (-2, 2)),  # the outermost of three is dropped
        ([(-1, 1), (-2, 2), (-3, 3), (-4, 4), (-4, 4), (-5, 5)], (-4, 4)),
        ([(0, 1), (0, 1), (0, 1), (0, 9), (0, 9), (0, 9)], (0, 9)),  # half of the fleet sees more
        ([(0, 1), (0, 1), (0, 1), (0, 9e5), (0, 9e5)], (0, 2)),  # two of five lie: twice the width
        ([(0, 0), (0, 0), (0, 0), (0, 5), (0, 5)], (0, 0)),  # dead for most
    ],
)
def test_the_outermost_quarter_is_dropped_and_the_rest_stays_near_the_median(pairs, merged):
    found = merge_ranges(one(*pairs), ("only",))

    assert (found.low_T[0], found.high_T[0]) == merged


def test_the_order_in_which_a_vehicle_names_its_tensors_does_not_matter():
    turned = ranges([-1.0, 0.0], [5.0, 1.0], names=NAMES[::-1])
    told = {"car0": turned, "car1": turned, "car2": turned}

    assert merge_ranges(told, NAMES).low_T.tolist() == [0.0, -1.0]


HONEST = st.lists(
    st.tuples(st.floats(-9, 0, width=32), st.floats(0, 9, width=32)), min_size=3, max_size=12
)
LIE = st.tuples(st.floats(-LARGEST, 0, width=32), st.floats(0, LARGEST, width=32))


@given(honest=HONEST, lie=LIE)
def test_a_quarter_of_liars_moves_no_bound_out_of_the_honest_ones(honest, lie):
    liars = max(1, len(honest) // 3)  # a quarter of all, rounded down

    merged = merge_ranges(one(*honest, *[lie] * liars), ("only",))

    lows, highs = np.float32(honest).T
    assert lows.min() <= merged.low_T[0] <= lows.max()
    assert highs.min() <= merged.high_T[0] <= highs.max()


@given(honest=HONEST, lie=LIE)
def test_a_minority_of_liars_costs_two_bits_at_most(honest, lie):
    merged = merge_ranges(one(*honest, *[lie] * (len(honest) - 1)), ("only",))

    lows, highs = np.float32(honest).T
    widest = highs.max() - lows.min()
    assert merged.high_T[0] - merged.low_T[0] <= 3.001 * widest + 1e-6


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
