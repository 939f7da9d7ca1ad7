"""Two drivers on the same frames."""

import numpy as np
import pytest

from convoy_compression.model.parity import compare

FRAMES = np.zeros((150, 2, 2, 3), np.uint8)


def driver(probabilities, throttle):
    def drive(frames_BHWC):
        count = len(frames_BHWC)
        return (
            np.tile(np.float32(probabilities), (count, 1)),
            np.full(count, throttle, np.float32),
        )

    return drive


@pytest.mark.parametrize(
    ("candidate", "difference", "agreement", "steering_change"),
    [
        (driver([0.7, 0.2, 0.1], 0.5), 0.0, 1.0, 0.0),
        (driver([0.5, 0.4, 0.1], 0.5), 0.2, 1.0, 0.2),  # other numbers, the same choice
        (driver([0.1, 0.2, 0.7], 0.5), 0.6, 0.0, 1.2),  # from -0.6 to 0.6
        (driver([0.7, 0.2, 0.1], -0.5), 1.0, 1.0, 0.0),  # the throttle counts as well
    ],
)
def test_difference_agreement_and_change(candidate, difference, agreement, steering_change):
    parity = compare(driver([0.7, 0.2, 0.1], 0.5), candidate, FRAMES)

    assert parity.frames == 150
    assert parity.max_difference == pytest.approx(difference, abs=1e-6)
    assert parity.class_agreement == agreement
    assert parity.mean_steering_change == pytest.approx(steering_change, abs=1e-6)


def test_nan_in_one_batch_is_not_forgotten_in_the_next():
    calls = []

    def broken_once(frames_BHWC):
        calls.append(len(frames_BHWC))
        return driver([0.7, 0.2, 0.1], np.nan if len(calls) == 1 else 0.5)(frames_BHWC)

    parity = compare(driver([0.7, 0.2, 0.1], 0.5), broken_once, FRAMES)

    assert len(calls) > 1
    assert np.isnan(parity.max_difference)


def test_no_frames_are_a_mistake():
    with pytest.raises(ValueError, match="at least one frame"):
        compare(driver([1, 0, 0], 0), driver([1, 0, 0], 0), FRAMES[:0])
