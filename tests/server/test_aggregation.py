"""The weighted mean, and that a late refusal leaves no trace in it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_compression.update.float32 import Float32Codec
from convoy_server.admission import AdmittedUpdate
from convoy_server.aggregation import Aggregation
from convoy_server.errors import RefusedReplyError

CODEC = Float32Codec()


def update(values, example_count=1, train_loss=1.0):
    payload = memoryview(CODEC.encode(np.array(values, np.float32)))
    return AdmittedUpdate(payload=payload, example_count=example_count, train_loss=train_loss)


def test_examples_weigh():
    aggregation = Aggregation(CODEC.accumulator(2), "examples")
    aggregation.add(update([1.0, 0.0], example_count=1, train_loss=4.0))
    aggregation.add(update([5.0, 8.0], example_count=3, train_loss=8.0))
    assert aggregation.train_loss == 7.0
    np.testing.assert_array_equal(aggregation.mean(), [4.0, 6.0])


def test_every_update_may_weigh_the_same_and_the_loss_is_still_the_examples():
    aggregation = Aggregation(CODEC.accumulator(1), "equal")
    aggregation.add(update([1.0], example_count=1, train_loss=4.0))
    aggregation.add(update([5.0], example_count=3, train_loss=8.0))
    assert aggregation.train_loss == 7.0
    np.testing.assert_array_equal(aggregation.mean(), [3.0])


def test_nothing_added_has_no_loss_and_no_mean():
    aggregation = Aggregation(CODEC.accumulator(1), "examples")
    assert aggregation.train_loss is None
    with pytest.raises(ValueError, match="no updates"):
        aggregation.mean()


LATE = {
    "not_finite": update([1.0, float("nan")], example_count=9, train_loss=99.0),
    "wrong_length": update([1.0, 2.0, 3.0], example_count=9, train_loss=99.0),
}


@given(st.lists(st.sampled_from(["good", *LATE]), max_size=12))
def test_a_late_refusal_leaves_everything_as_it_was(kinds):
    touched = Aggregation(CODEC.accumulator(2), "examples")
    untouched = Aggregation(CODEC.accumulator(2), "examples")
    for index, kind in enumerate(["good", *kinds]):
        good = update([0.1 * index, -1.7], example_count=index + 1, train_loss=0.3 * index)
        if kind == "good":
            touched.add(good)
            untouched.add(good)
        else:
            with pytest.raises(RefusedReplyError) as error:
                touched.add(LATE[kind])
            assert error.value.reason == kind
    assert touched.train_loss == untouched.train_loss
    assert touched.mean().tobytes() == untouched.mean().tobytes()
