"""Histograms of certainty: what they count, and when two are apart."""

import numpy as np
import pytest

from convoy_driving.certainty import (
    COUNTS,
    ENTROPY_STEPS,
    certainty_counts,
    distance,
    mean_entropy,
    straight_share,
)


def answering(*probabilities):
    """A model that gives each frame its own answer."""
    table = np.array(probabilities, np.float32)
    return lambda frames_NHWC: (table[frames_NHWC[:, 0, 0, 0]], np.zeros(len(frames_NHWC)))


def frames(*numbers):
    return np.array(numbers, np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)


@pytest.mark.parametrize(
    ("answer", "cell"),
    [
        ((1.0, 0.0, 0.0), 0),  # surely a turn, whichever
        ((0.0, 0.0, 1.0), 0),
        ((0.0, 1.0, 0.0), ENTROPY_STEPS),  # surely straight
        ((1 / 3, 1 / 3, 1 / 3), ENTROPY_STEPS - 1),  # no idea: the first of equals is left
        ((0.3, 0.4, 0.3), COUNTS - 1),
        ((np.nan, np.nan, np.nan), ENTROPY_STEPS - 1),  # counts as no idea
    ],
)
def test_a_frame_is_counted_by_turn_and_entropy(answer, cell):
    counts = certainty_counts(answering(answer), frames(0))

    assert counts.tolist() == np.eye(COUNTS, dtype=int)[cell].tolist()


def test_counts_add_up_over_batches_and_vehicles():
    model = answering((1, 0, 0), (0, 1, 0))
    many = frames(*[0] * 300, *[1] * 200)

    assert (
        certainty_counts(model, many)
        == certainty_counts(model, many[:450]) + certainty_counts(model, many[450:])
    ).all()
    assert straight_share(certainty_counts(model, many)) == 0.4
    assert mean_entropy(certainty_counts(model, many)) == pytest.approx(0.05)


def test_the_distance_is_zero_for_the_same_shares_and_one_for_nothing_in_common():
    one, other = np.eye(COUNTS, dtype=np.int64)[:2]

    assert distance(one, 7 * one) == 0.0
    assert distance(one, other) == distance(other, one) == 1.0
    assert distance(one + other, one) == 0.5
    with pytest.raises(ValueError, match="without counts"):
        distance(one, 0 * one)
