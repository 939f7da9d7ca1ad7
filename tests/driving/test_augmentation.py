"""Augmentation keeps picture and label together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from convoy_driving.augmentation import mirror, shift

batches = st.integers(1, 6).flatmap(
    lambda count: st.tuples(
        hnp.arrays(np.uint8, (count, 3, 7, 3)),
        hnp.arrays(np.float32, count, elements=st.floats(-1, 1, width=32)),
        hnp.arrays(np.bool_, count),
        hnp.arrays(np.int64, count, elements=st.integers(-6, 6)),
    )
)


@given(batches)
def test_mirroring_twice_changes_nothing(batch):
    frames_BHWC, steering_B, chosen_B, _ = batch

    twice_BHWC, twice_B = mirror(*mirror(frames_BHWC, steering_B, chosen_B), chosen_B)

    assert np.array_equal(twice_BHWC, frames_BHWC)
    assert np.array_equal(twice_B, steering_B)


@given(batches)
def test_mirroring_is_what_a_loop_over_pixels_would_do(batch):
    frames_BHWC, steering_B, chosen_B, _ = batch

    mirrored_BHWC, mirrored_B = mirror(frames_BHWC, steering_B, chosen_B)

    for frame, steering, chosen, new_frame, new_steering in zip(
        frames_BHWC, steering_B, chosen_B, mirrored_BHWC, mirrored_B, strict=True
    ):
        for column in range(7):
            source = 6 - column if chosen else column
            assert np.array_equal(new_frame[:, column], frame[:, source])
        assert new_steering == (-steering if chosen else steering)


@given(batches)
def test_shifting_is_what_a_loop_over_pixels_would_do(batch):
    frames_BHWC, steering_B, _, pixels_B = batch

    shifted_BHWC, shifted_B = shift(frames_BHWC, steering_B, pixels_B, 0.5)

    for frame, steering, pixels, new_frame, new_steering in zip(
        frames_BHWC, steering_B, pixels_B, shifted_BHWC, shifted_B, strict=True
    ):
        for column in range(7):
            source = min(6, max(0, column + pixels))
            assert np.array_equal(new_frame[:, column], frame[:, source])
        assert new_steering == pytest.approx(np.clip(steering - 0.5 * pixels / 7, -1, 1), abs=1e-6)


def test_augmentation_leaves_the_originals_alone():
    frames_BHWC = np.arange(2 * 3 * 7 * 3, dtype=np.uint8).reshape(2, 3, 7, 3)
    frames_BHWC.flags.writeable = False  # as a memory map is
    steering_B = np.array([0.5, -0.5], np.float32)
    steering_B.flags.writeable = False

    mirror(frames_BHWC, steering_B, np.array([True, False]))
    shift(frames_BHWC, steering_B, np.array([2, -1]), 1.0)


def test_a_car_that_stands_further_right_steers_left():
    frames_BHWC = np.zeros((1, 1, 8, 3), np.uint8)
    frames_BHWC[0, 0, 4] = 255  # the line, right of the middle

    moved_BHWC, steering_B = shift(
        frames_BHWC, np.zeros(1, np.float32), np.array([2]), steering_per_width=1.0
    )

    assert moved_BHWC[0, 0].argmax(axis=0)[0] == 2  # the line is seen further left
    assert steering_B[0] == pytest.approx(-0.25)
