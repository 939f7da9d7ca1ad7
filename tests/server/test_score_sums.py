"""Scores that vehicles give to masked sums only: added up, checked, and no vehicle's own."""

from dataclasses import replace

import numpy as np
import pytest
from masked_cars import MODEL, ROUND, RUN_ID, SCHEMA, SETTINGS, Car, MaskedCars
from small_sum import NOW, authority, identity

from convoy_compression.update.codec import UpdateConfig
from convoy_driving.evaluation import EvaluationCounts
from convoy_edge_client.evaluation_handler import score_counters
from convoy_privacy.certificates import Role
from convoy_privacy.party import Party
from convoy_protos.envelope import COUNTER_SCALE, SCORE_COUNTERS
from convoy_protos.flower_messages import UPLOAD
from convoy_server.admission import Expectation
from convoy_server.evaluation import CheckedEvaluation, merge
from convoy_server.run_config import RunConfig
from convoy_server.score_sums import NO_SCORES, sum_scores, summed_scores

RUN = RunConfig(update=UpdateConfig(minimum_cohort=2, shard_size=4))
EXPECTED = Expectation(
    run_id=RUN_ID,
    round_number=ROUND,
    schema_digest=SCHEMA,
    parameter_count=123,
    codec="masked/1",
    max_examples=1000,
)


def counts_of(number):
    return EvaluationCounts(
        class_examples=(10 + number, 20, 5 * (number % 2)),
        class_correct=(number, 15, 4 * (number % 2)),
        throttle_absolute_error_sum=0.25 * number,
        loss_sum=1.5 * number,
    )


def a_car(number, **lies):
    scores = dict(zip(SCORE_COUNTERS, score_counters(counts_of(number)), strict=True))
    return Car(number, np.zeros(0, np.float32), scores=scores, lies=lies)


def summed(cars, run=RUN, spoil=None):
    fleet = MaskedCars(cars, spoil)
    keys = Party(
        identity=identity(90, Role.AGGREGATOR),
        role=Role.AGGREGATOR,
        trust=authority().trust(),
        sealing_key=None,
    )
    names = [car.name for car in cars]
    sums = sum_scores(
        names, run, EXPECTED, MODEL, SETTINGS, keys=keys, ask=fleet.ask, now=lambda: NOW
    )
    return sums, fleet


def test_the_sums_are_those_of_the_vehicles_counts():
    numbers = range(1, 8)
    sums, _ = summed([a_car(number) for number in numbers])

    scores = summed_scores(sums)

    assert [len(one.summed) for one in sums] == [4, 3]
    assert scores.vehicles == len(numbers)
    assert scores.counts == sum((counts_of(number) for number in numbers), EvaluationCounts())
    own = sum(counts_of(number).balanced_accuracy for number in numbers)
    assert scores.balanced_accuracy_sum == pytest.approx(own, abs=1e-5)


def test_the_fleet_s_figures_are_the_same_whoever_tells_and_whoever_gives_to_sums_only():
    def told(numbers):
        return {
            f"car{number}": CheckedEvaluation(train_examples=1, counts=counts_of(number))
            for number in numbers
        }

    everybody = merge(told(range(1, 7)))
    sums, _ = summed([a_car(number) for number in (4, 5, 6)])
    mixed = merge(told((1, 2, 3)), summed_scores(sums))
    nobody, _ = summed([a_car(number) for number in range(1, 7)])
    alone = merge({}, summed_scores(nobody))

    for score in (mixed, alone):
        assert score.balanced_accuracy == pytest.approx(everybody.balanced_accuracy, abs=1e-5)
        assert score.accuracy == everybody.accuracy
        assert score.throttle_mae == everybody.throttle_mae
    assert (set(mixed.per_vehicle), alone.per_vehicle) == ({"car1", "car2", "car3"}, {})


def test_fewer_than_the_minimum_are_not_even_asked():
    sums, fleet = summed([a_car(1), a_car(2)], replace(RUN, update=UpdateConfig(minimum_cohort=3)))
    assert (sums, fleet.asked) == ([], [])
    assert summed_scores(sums) == NO_SCORES
    assert merge({}, NO_SCORES).balanced_accuracy is None


def test_one_that_is_lost_is_missing_and_the_others_are_summed():
    cars = [a_car(number) for number in (1, 2, 3, 4)]
    sums, _ = summed(cars, spoil={(UPLOAD, cars[0].name, 1): lambda _reply: None})
    assert summed_scores(sums).counts == counts_of(2) + counts_of(3) + counts_of(4)


@pytest.mark.parametrize(
    ("lies", "words"),
    [
        ({"count": 2}, "counts 4 vehicles, 3 are in it"),
        ({"balanced_accuracy": 5 * COUNTER_SCALE}, "balanced accuracy of"),
        ({"balanced_accuracy": 2**64 - 5 * COUNTER_SCALE}, "balanced accuracy of"),
        ({"left": 2**64 - 40}, "are predicted right"),
        ({"left_correct": 100}, "are predicted right"),
        ({"right": 10**9}, "are predicted right"),
    ],
)
def test_scores_that_cannot_be_true_are_in_no_figure(lies, words):
    sums, _ = summed([a_car(1), a_car(2), a_car(3, **lies)])
    assert words in sums[0].why
    assert summed_scores(sums) == NO_SCORES
