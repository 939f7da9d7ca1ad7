"""TensorBoard events: one point a round and figure, the same after a resume."""

import pytest

from convoy_server.round_log import RoundRecord, VehicleScore
from convoy_server.run_config import RunConfig
from convoy_server.tensorboard import TensorBoardObserver, figures, tensorboard_installed

events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def record(number, accuracy):
    score = VehicleScore(examples=5, balanced_accuracy=0.25, accuracy=0.5, throttle_mae=0.1)
    return RoundRecord(
        round=number,
        outcome="done",
        invited=3,
        completed=2,
        lost=0,
        surplus=0,
        rejected={"not_finite": 1},
        uplink_bytes=10,
        downlink_bytes=20,
        wall_s=1.0,
        balanced_accuracy=accuracy,
        per_vehicle={"car1": score},
    )


def write(out, first_round, accuracies):
    observer = TensorBoardObserver(out)
    observer.run_started(RunConfig(), {"car1": 5}, first_round)
    for number, accuracy in enumerate(accuracies, start=first_round):
        observer.round_finished(record(number, accuracy))
    observer.close()


def points(out, tag):
    read = events.EventAccumulator(str(out / "tensorboard"))
    read.Reload()
    return [(event.step, pytest.approx(event.value)) for event in read.Scalars(tag)]


def test_where_it_is_installed_it_is_found():
    assert tensorboard_installed()


def test_every_round_is_a_point(tmp_path):
    write(tmp_path, 1, [0.5, 0.75])
    assert points(tmp_path, "model/balanced_accuracy") == [(1, 0.5), (2, 0.75)]
    assert points(tmp_path, "vehicles/car1") == [(1, 0.25), (2, 0.25)]


def test_a_resumed_run_goes_on_behind_the_rounds_that_count(tmp_path):
    write(tmp_path, 1, [0.5, 0.625])
    write(tmp_path, 2, [0.75, 0.875])  # round 2 had been seen, but its checkpoint was not written
    assert points(tmp_path, "model/balanced_accuracy") == [(1, 0.5), (2, 0.75), (3, 0.875)]


def test_a_new_run_in_the_same_place_starts_empty(tmp_path):
    write(tmp_path, 1, [0.5, 0.5, 0.5])
    write(tmp_path, 1, [0.75])
    assert points(tmp_path, "model/balanced_accuracy") == [(1, 0.75)]


def test_what_was_not_measured_has_no_point():
    shown = figures(record(1, None))
    assert "model/balanced_accuracy" not in shown
    assert "privacy/epsilon" not in shown
    assert shown["round/rejected"] == 1.0


def test_a_round_before_its_run_is_our_mistake(tmp_path):
    with pytest.raises(ValueError, match="before its run"):
        TensorBoardObserver(tmp_path).round_finished(record(1, 0.5))
