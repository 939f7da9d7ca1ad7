"""Counts, and the figures that are made of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_recordings import make_dataset

from convoy_driving.dataset import pool
from convoy_driving.evaluation import BATCH, EvaluationCounts, count, evaluate, torch_predictor
from convoy_driving.models.registry import ModelConfig, build_model

examples = st.lists(
    st.tuples(
        st.integers(0, 2),  # the class
        st.tuples(*[st.floats(0.0, 1.0, width=32)] * 3),  # what was predicted
        st.floats(-1, 1, width=32),  # the throttle
        st.floats(-1, 1, width=32),  # what was predicted
    ),
    max_size=30,
)


def counted(rows):
    return count(
        np.array([row[1] for row in rows], np.float32).reshape(-1, 3),
        np.array([row[3] for row in rows], np.float32),
        np.array([row[0] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float32),
    )


@given(examples)
def test_counts_are_those_of_the_slow_obvious_version(rows):
    counts = counted(rows)

    for column in range(3):
        of_class = [row for row in rows if row[0] == column]
        right = [row for row in of_class if max(range(3), key=lambda k: row[1][k]) == column]
        assert counts.class_examples[column] == len(of_class)
        assert counts.class_correct[column] == len(right)
    recalls = [
        right / total
        for right, total in zip(counts.class_correct, counts.class_examples, strict=True)
        if total
    ]
    if rows:
        assert counts.balanced_accuracy == pytest.approx(sum(recalls) / len(recalls))
        assert counts.throttle_mae == pytest.approx(
            sum(abs(row[3] - row[2]) for row in rows) / len(rows), abs=1e-6
        )
        loss = sum(
            0.9 * -math.log(max(row[1][row[0]], 1e-7)) + 0.1 * (row[3] - row[2]) ** 2
            for row in rows
        )
        assert counts.loss_sum == pytest.approx(loss, abs=1e-5)


@given(examples, examples)
def test_counts_of_two_vehicles_add_up(first, second):
    together, apart = counted(first + second), counted(first) + counted(second)

    assert together.class_examples == apart.class_examples
    assert together.class_correct == apart.class_correct
    assert together.loss_sum == pytest.approx(apart.loss_sum)


def test_one_sided_predictions_have_high_accuracy_and_low_balanced_accuracy():
    counts = EvaluationCounts(class_examples=(5, 90, 5), class_correct=(0, 90, 0))

    assert counts.accuracy == 0.9
    assert counts.balanced_accuracy == pytest.approx(1 / 3)


def test_a_class_that_is_absent_does_not_count():
    counts = EvaluationCounts(class_examples=(0, 10, 10), class_correct=(0, 10, 5))

    assert counts.balanced_accuracy == 0.75


def test_without_examples_no_number_is_made_up():
    for value in (
        EvaluationCounts().balanced_accuracy,
        EvaluationCounts().accuracy,
        EvaluationCounts().throttle_mae,
        EvaluationCounts().loss,
    ):
        assert math.isnan(value)


def test_a_predictor_sees_exactly_the_chosen_frames():
    vehicles = [make_dataset(40, seed=0), make_dataset(300, seed=1)]
    pooled = pool(vehicles)
    seen = []

    def predict(frames_BHWC):
        seen.append(frames_BHWC.copy())
        return np.eye(3, dtype=np.float32)[np.ones(len(frames_BHWC), int)], np.zeros(
            len(frames_BHWC), np.float32
        )

    counts = evaluate(predict, pooled, pooled.held_indices)

    held_BHWC = np.concatenate([v.frames_NHWC[v.held_indices] for v in vehicles])
    assert np.array_equal(np.concatenate(seen), held_BHWC)
    assert counts.example_count == len(held_BHWC) == 85
    assert counts.class_correct[0] == counts.class_correct[2] == 0


def test_evaluation_gives_way_before_every_batch():
    dataset = make_dataset(2 * BATCH + 1)
    order = []

    def predict(frames_BHWC):
        order.append(len(frames_BHWC))
        return np.zeros((len(frames_BHWC), 3), np.float32), np.zeros(len(frames_BHWC), np.float32)

    evaluate(
        predict,
        dataset,
        np.arange(2 * BATCH + 1),
        between_batches=lambda: order.append("pause"),
    )

    assert order == ["pause", BATCH, "pause", BATCH, "pause", 1]


def test_a_torch_network_predicts_in_evaluation_mode_and_keeps_read_only_frames():
    dataset = make_dataset(20)
    dataset.frames_NHWC.flags.writeable = False
    model = build_model(ModelConfig(dropout=0.5), 32, 40, seed=0).train()
    predict = torch_predictor(model)

    first, again = predict(dataset.frames_NHWC[:5]), predict(dataset.frames_NHWC[:5])

    assert first[0].dtype == first[1].dtype == np.float32
    assert np.array_equal(first[0], again[0])
    assert np.allclose(first[0].sum(axis=1), 1.0)
