"""Proxy frames against what vehicles tell about theirs."""

import numpy as np
import pytest

from convoy_driving.certainty import COUNTS
from convoy_server.release.proxy_fit import FleetCertainty, proxy_fit

SURE_STRAIGHT, TURN = 10, 5


def fleet(cell, frames=300, vehicles=3):
    counts = np.zeros(COUNTS, np.int64)
    counts[cell] = frames
    return FleetCertainty(counts_C=counts, vehicles=vehicles)


def straight_on(frames_NHWC):
    answers = np.tile(np.array([0, 1, 0], np.float32), (len(frames_NHWC), 1))
    return answers, np.zeros(len(frames_NHWC), np.float32)


FRAMES = np.zeros((50, 2, 2, 3), np.uint8)


def test_frames_of_the_same_kind_are_near_and_others_far():
    assert proxy_fit(straight_on, FRAMES, fleet(SURE_STRAIGHT)).distance == 0.0
    far = proxy_fit(straight_on, FRAMES, fleet(TURN))

    assert far.distance == 1.0
    assert far.figures() == (
        "on the proxy frames the global model has entropy 0.05 of 1 and says straight to 100%, on 300 "
        "frames of 3 vehicles 0.55 and 0%"
    )


@pytest.mark.parametrize(
    "told",
    [
        None,  # nobody was asked
        fleet(TURN, vehicles=2),  # one of two could turn the verdict
        fleet(TURN, frames=99),  # so few differ by chance
        fleet(TURN, frames=0, vehicles=0),
    ],
)
def test_where_too_little_is_told_nothing_is_judged(told):
    fit = proxy_fit(straight_on, FRAMES, told)

    assert fit.distance is None
    assert fit.proxy_straight == 1.0
    assert "straight" in fit.figures()
