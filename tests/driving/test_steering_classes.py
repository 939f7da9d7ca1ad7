"""One rule for classes and bins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_driving.steering_classes import bins_of, class_of, classes_of


@pytest.mark.parametrize(
    ("steering", "expected"),
    [(-1.0, 0), (-0.2, 0), (-0.199, 1), (0.0, 1), (0.199, 1), (0.2, 2), (1.0, 2)],
)
def test_a_magnitude_below_the_threshold_is_straight(steering, expected):
    assert class_of(steering, 0.2) == expected


@given(st.lists(st.floats(-1, 1, width=32), min_size=1), st.floats(0.01, 0.9))
def test_the_mirrored_road_has_the_mirrored_class_and_bin(steering, threshold):
    steering_N = np.array(steering, np.float32)

    assert np.array_equal(classes_of(-steering_N, threshold), 2 - classes_of(steering_N, threshold))
    assert np.array_equal(bins_of(-steering_N), 14 - bins_of(steering_N))


def test_a_bin_stands_for_the_angle_in_its_middle():
    middles = np.linspace(-1, 1, 15, dtype=np.float32)

    assert bins_of(middles).tolist() == list(range(15))
    assert bins_of(np.array([-5.0, 5.0], np.float32)).tolist() == [0, 14]
