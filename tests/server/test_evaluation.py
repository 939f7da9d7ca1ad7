"""The fleet's figures from counts that vehicles send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_compression.update.float32 import Float32Codec
from convoy_driving.evaluation import EvaluationCounts
from convoy_protos.v1.federation_pb2 import Evaluation
from convoy_server.admission import REASONS, Expectation
from convoy_server.errors import RefusedReplyError
from convoy_server.evaluation import CheckedEvaluation, check_evaluation, merge

EXPECTED = Expectation(
    run_id="run",
    round_number=2,
    schema_digest=b"",
    parameter_count=1,
    codec=Float32Codec(),
    max_examples=1000,
)


def checked(examples, correct, throttle=0.0):
    counts = EvaluationCounts(examples, correct, throttle_absolute_error_sum=throttle)
    return CheckedEvaluation(train_examples=7, counts=counts)


def test_balanced_accuracy_is_averaged_over_vehicles_and_accuracy_over_examples():
    score = merge(
        {
            "b": checked((100, 100, 100), (50, 100, 0), throttle=30.0),  # balanced 0.5
            "a": checked((1, 0, 1), (1, 0, 1), throttle=1.0),  # balanced 1.0, two classes seen
        }
    )
    assert score.balanced_accuracy == pytest.approx(0.75)
    assert score.accuracy == pytest.approx(152 / 302)
    assert score.throttle_mae == pytest.approx(31 / 302)
    assert list(score.per_vehicle) == ["a", "b"]
    assert score.per_vehicle["b"].balanced_accuracy == pytest.approx(0.5)
    assert score.per_vehicle["a"].examples == 7


def test_without_vehicles_there_are_no_figures():
    score = merge({})
    assert (score.balanced_accuracy, score.accuracy, score.throttle_mae) == (None, None, None)


@given(st.permutations("abcdef"))
def test_the_order_of_arrival_does_not_matter(order):
    fleet = {
        name: checked((3, 5 + ord(name), 7), (1, ord(name) % 5, 2), throttle=0.1 * ord(name))
        for name in "abcdef"
    }
    assert merge({name: fleet[name] for name in order}) == merge(fleet)


evaluations = st.builds(
    Evaluation,
    run_id=st.sampled_from(["run", "other"]),
    round=st.integers(0, 4),
    vehicle_id=st.sampled_from(["car0", "car1"]),
    train_examples=st.integers(0, 2**64 - 1),
    class_examples=st.lists(st.integers(0, 2**64 - 1), max_size=4),
    class_correct=st.lists(st.integers(0, 2**64 - 1), max_size=4),
    throttle_absolute_error_sum=st.floats(),
    loss_sum=st.floats(),
)


@given(evaluations)
def test_any_evaluation_is_checked_or_refused_with_a_known_reason(evaluation):
    try:
        one = check_evaluation(evaluation, "car0", EXPECTED)
    except RefusedReplyError as error:
        assert error.reason in REASONS  # noqa: PT017 - both ends are fine, nothing else is
    else:
        assert 0.0 <= one.counts.balanced_accuracy <= 1.0


@given(
    st.lists(st.integers(0, 300), min_size=3, max_size=3).filter(any),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.floats(0, 1e6),
)
def test_honest_counts_are_believed(examples, shares, throttle):
    correct = [int(count * share) for count, share in zip(examples, shares, strict=True)]
    evaluation = Evaluation(
        run_id="run",
        round=2,
        vehicle_id="car0",
        train_examples=1000,
        class_examples=examples,
        class_correct=correct,
        throttle_absolute_error_sum=throttle,
    )
    one = check_evaluation(evaluation, "car0", EXPECTED)
    assert one.counts.class_correct == tuple(correct)
    assert 0.0 <= one.counts.balanced_accuracy <= 1.0
