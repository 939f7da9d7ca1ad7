"""What single updates amount to, and that a late refusal leaves no trace in it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_compression.update.float32 import Float32Codec
from convoy_protos.v1.federation_pb2 import UpdateHeader
from convoy_server.admission import AdmittedUpdate, Expectation
from convoy_server.aggregation import SingleUpdates
from convoy_server.errors import RefusedReplyError
from convoy_server.robust.registry import RobustConfig

CODEC = Float32Codec()


def updates(parameter_count, weighting="examples", rule="mean"):
    expected = Expectation(
        run_id="run",
        round_number=1,
        schema_digest=b"s" * 32,
        parameter_count=parameter_count,
        codec="float32/1",
        max_examples=1000,
    )
    return SingleUpdates(CODEC, expected, weighting, RobustConfig(rule=rule))


def add(aggregation, values, example_count=1, train_loss=1.0, vehicle="car0"):
    header = UpdateHeader(
        vehicle_id=vehicle,
        example_count=example_count,
        metrics={} if train_loss is None else {"train_loss": train_loss},
    )
    payload = memoryview(CODEC.encode(np.array(values, np.float32)))
    aggregation.add(AdmittedUpdate(header, payload), payload)


def test_examples_weigh():
    aggregation = updates(2)
    add(aggregation, [1.0, 0.0], example_count=1, train_loss=4.0)
    add(aggregation, [5.0, 8.0], example_count=3, train_loss=8.0)
    result = aggregation.result()
    assert result.train_loss == 7.0
    np.testing.assert_array_equal(result.update_M, [4.0, 6.0])


def test_every_update_may_weigh_the_same_and_the_loss_is_still_the_examples():
    aggregation = updates(1, "equal")
    add(aggregation, [1.0], example_count=1, train_loss=4.0)
    add(aggregation, [5.0], example_count=3, train_loss=8.0)
    result = aggregation.result()
    assert result.train_loss == 7.0
    np.testing.assert_array_equal(result.update_M, [3.0])


def test_a_loss_that_is_withheld_is_left_out_of_the_mean():
    aggregation = updates(1)
    add(aggregation, [1.0], train_loss=None)
    add(aggregation, [1.0], train_loss=4.0)
    assert aggregation.result().train_loss == 4.0


def test_nothing_added_is_no_aggregate():
    assert updates(1).result() is None


def test_a_robust_rule_sees_every_update_and_names_whom_it_leaves_out():
    aggregation = updates(2, rule="krum")
    for vehicle in ("car0", "car1", "car2", "car3", "car4"):
        add(aggregation, [1.0, 2.0], vehicle=vehicle)
    add(aggregation, [-50.0, 50.0], vehicle="liar")
    result = aggregation.result()
    np.testing.assert_allclose(result.update_M, [1.0, 2.0], rtol=1e-6)
    assert "liar" in result.left_out


def test_a_robust_rule_with_too_few_updates_is_no_aggregate():
    aggregation = updates(1, rule="krum")
    add(aggregation, [1.0])
    assert aggregation.result() is None


LATE = {"not_finite": [1.0, float("nan")], "wrong_length": [1.0, 2.0, 3.0]}


@given(st.lists(st.sampled_from(["good", *LATE]), max_size=12))
def test_a_late_refusal_leaves_everything_as_it_was(kinds):
    touched, untouched = updates(2), updates(2)
    for index, kind in enumerate(["good", *kinds]):
        if kind == "good":
            for aggregation in (touched, untouched):
                add(aggregation, [0.1 * index, -1.7], index + 1, 0.3 * index)
        else:
            with pytest.raises(RefusedReplyError) as error:
                add(touched, LATE[kind], example_count=9, train_loss=99.0)
            assert error.value.reason == kind
    one, other = touched.result(), untouched.result()
    assert one.train_loss == other.train_loss
    assert one.update_M.tobytes() == other.update_M.tobytes()
