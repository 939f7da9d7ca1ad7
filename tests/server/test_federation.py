"""A whole federated run over an in-process fleet, with vehicles that misbehave in every known way."""

import dataclasses
import gc
import json
import weakref

import numpy as np
import pytest
from fleet_double import fleet_grid, honest_update, small_run

from convoy_driving.parameters import load_parameters
from convoy_protos.errors import UsageError
from convoy_server.admission import REASONS
from convoy_server.app import initial_model, run_federation
from convoy_server.audit import verify_audit
from convoy_server.checkpoint import load_checkpoint
from convoy_server.errors import (
    ChangedRunError,
    NoVehiclesError,
    RunExistsError,
    RunInterruptedError,
    TooManyAbandonedRoundsError,
)
from convoy_server.observer import SilentObserver
from convoy_server.release.config import ReleaseConfig
from convoy_server.robust.registry import RobustConfig
from convoy_server.strategy import FleetStrategy


def run_once(out, faults=(), vehicles=4, resume=False, observer=None, **settings):
    with fleet_grid(faults, vehicles) as grid:
        return run_federation(grid, small_run(**settings), out, resume=resume, observer=observer)


def rounds_without_time(out):
    records = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in one.items() if key != "wall_s"} for one in records]


def test_an_honest_fleet_averages_by_examples(tmp_path):
    result = run_once(tmp_path, rounds=1, optimizer="fed_avg")

    global_N, _ = initial_model(small_run())
    examples = {f"car{index}": 50 + 10 * index for index in range(4)}
    mean_N = sum(
        count * honest_update(name, 1, global_N).astype(float) for name, count in examples.items()
    ) / sum(examples.values())
    np.testing.assert_allclose(result.model_N, global_N + mean_N, rtol=1e-4, atol=1e-6)
    assert result.vehicles == examples


def test_the_published_file_is_the_model_of_the_result(tmp_path):
    result = run_once(tmp_path)
    model_N, schema = load_parameters(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(model_N, result.model_N)
    assert schema == result.schema


def test_a_run_counts_its_vehicles_and_bytes(tmp_path):
    result = run_once(tmp_path)
    parameters = result.schema.parameter_count
    for number, record in enumerate(result.records, start=1):
        assert (record.round, record.outcome) == (number, "done")
        assert (record.invited, record.completed, record.lost, record.surplus) == (4, 4, 0, 0)
        assert record.train_loss == pytest.approx(1.0 / number)
        assert 0.0 < record.balanced_accuracy < 1.0
        # Four models down to train and four to evaluate; four updates up, headers on top.
        assert 8 * 4 * parameters < record.downlink_bytes < 8 * (4 * parameters + 2000)
        assert 4 * 4 * parameters < record.uplink_bytes < 4 * (4 * parameters + 500)
    assert set(result.per_vehicle) == {"car0", "car1", "car2", "car3"}
    assert len(result.snapshots) == 2
    np.testing.assert_array_equal(result.snapshots[-1], result.model_N)


@pytest.mark.parametrize(
    ("rule", "ensemble", "members"),
    [
        ("geometric_median", "singles", 4),
        ("geometric_median", "auto", 0),  # who sees single vehicles' models does not keep them
        ("coordinate_median", "singles", 0),  # vouches for nobody
        ("mean", "singles", 0),  # adds up as they come
    ],
)
def test_models_of_the_last_round_are_kept_to_teach_where_they_may(
    tmp_path, rule, ensemble, members
):
    run = dataclasses.replace(
        small_run(rounds=2),
        aggregation=RobustConfig(rule=rule),
        release=ReleaseConfig(teachers=2, ensemble=ensemble),
    )
    with fleet_grid((), 4) as grid:
        result = run_federation(grid, run, tmp_path, resume=False)

    assert len(result.members) == members
    kept = load_checkpoint(tmp_path / "checkpoint").members
    for kept_N, member_N in zip(kept, result.members, strict=True):
        np.testing.assert_array_equal(kept_N, member_N)


HOSTILE = [
    ("nan", "not_finite"),
    ("infinite", "not_finite"),
    ("huge", "not_finite"),  # finite, and the sum would not be
    ("short_payload", "wrong_length"),
    ("odd_payload", "wrong_length"),
    ("wrong_length", "wrong_length"),
    ("wrong_schema", "wrong_schema"),
    ("next_round", "wrong_round"),
    ("round_zero", "wrong_round"),
    ("other_run", "wrong_run"),
    ("other_vehicle", "wrong_vehicle"),
    ("other_codec", "wrong_codec"),
    ("zero_examples", "bad_example_count"),
    ("absurd_examples", "bad_example_count"),
    ("extra_metric", "wrong_metrics"),
    ("misnamed_metric", "wrong_metrics"),
    ("nan_metric", "wrong_metrics"),
    ("huge_metric", "wrong_metrics"),
    ("truncated", "truncated"),
    ("no_bytes", "truncated"),
    ("other_magic", "truncated"),
    ("oversized", "oversized"),
    ("empty", "malformed"),
    ("foreign_record", "malformed"),
    ("exception", "client_error"),
]


@pytest.fixture(scope="module")
def model_without_car3(tmp_path_factory):
    out = tmp_path_factory.mktemp("without")
    run_once(out, {"car3": "vanish"})
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("fault", "reason"), HOSTILE, ids=[fault for fault, _ in HOSTILE])
def test_what_a_vehicle_sends_is_counted_and_changes_nothing(
    tmp_path, model_without_car3, fault, reason
):
    result = run_once(tmp_path, {"car3": fault})

    for record in result.records:
        assert record.outcome == "done"
        assert record.rejected == {reason: 1}
        assert [one.vehicle for one in record.rejections] == ["car3"]
        assert "\n" not in record.rejections[0].detail
        assert len(record.rejections[0].detail) <= 200
    assert reason in REASONS
    assert (tmp_path / "model.safetensors").read_bytes() == model_without_car3


def test_every_reason_is_provoked_by_some_test():
    provoked = {reason for _, reason in HOSTILE} | {"replayed"}
    of_protected_updates = {
        "untrusted",
        "bad_signature",
        "wrong_context",
        "unreadable",
        "out_of_order",
        "bad_shares",
    }
    of_agents = {"not_now"}
    assert provoked == set(REASONS) - of_protected_updates - of_agents


def test_an_envelope_of_the_round_before_is_a_replay(tmp_path):
    result = run_once(tmp_path, {"car3": {"fault": "last_round", "from_round": 2}})
    assert [dict(record.rejected) for record in result.records] == [
        {},
        {"replayed": 1},
        {"replayed": 1},
    ]


def test_a_vehicle_that_never_answers_is_lost(tmp_path):
    result = run_once(tmp_path, {"car1": "vanish"})
    for record in result.records:
        assert (record.completed, record.lost, record.rejected) == (3, 1, {})
        assert record.lost_vehicles == ("car1",)


EVALUATION_FAULTS = [
    ("exception", "client_error"),
    ("empty", "malformed"),
    ("other_vehicle", "wrong_vehicle"),
    ("other_run", "wrong_run"),
    ("next_round", "wrong_round"),
    ("two_classes", "wrong_length"),
    ("no_examples", "bad_example_count"),
    ("absurd_examples", "bad_example_count"),
    ("more_right_than_seen", "wrong_metrics"),
    ("negative_sum", "wrong_metrics"),
    ("huge_sum", "wrong_metrics"),
    ("nan_sum", "not_finite"),
]


@pytest.mark.parametrize(
    ("fault", "reason"), EVALUATION_FAULTS, ids=[fault for fault, _ in EVALUATION_FAULTS]
)
def test_an_impossible_evaluation_is_left_out(tmp_path, fault, reason):
    result = run_once(tmp_path, {"car3": {"evaluation_fault": fault}}, rounds=1)
    (record,) = result.records
    assert record.completed == 4
    assert [one.reason for one in record.evaluation_rejections] == [reason]
    assert set(record.per_vehicle) == {"car0", "car1", "car2"}
    assert 0.0 < record.balanced_accuracy < 1.0


def test_a_vehicle_may_vanish_during_evaluation(tmp_path):
    result = run_once(tmp_path, {"car2": {"evaluation_fault": "vanish"}}, rounds=1)
    assert result.records[0].evaluation_lost == ("car2",)


def test_a_vehicle_that_comes_back_in_the_middle_of_a_round_is_asked_for_its_scores(
    tmp_path, monkeypatch
):
    configure = FleetStrategy.configure_train

    def while_car2_is_away(self, number, arrays, config, grid):
        with pytest.MonkeyPatch.context() as patch:
            if number == 2:
                patch.setattr(grid, "get_node_ids", lambda: [100, 101, 103])
            return configure(self, number, arrays, config, grid)

    monkeypatch.setattr(FleetStrategy, "configure_train", while_car2_is_away)
    _, second = run_once(tmp_path, rounds=2).records
    assert second.completed == 3
    assert set(second.per_vehicle) == {"car0", "car1", "car2", "car3"}


@pytest.mark.parametrize("profile_fault", ["vanish", "garbage"])
def test_a_vehicle_without_an_introduction_is_known_by_its_node(tmp_path, profile_fault):
    result = run_once(tmp_path, {"car2": {"profile_fault": profile_fault}}, rounds=1)
    (record,) = result.records
    assert [(one.vehicle, one.reason) for one in record.rejections] == [
        ("node-102", "wrong_vehicle")
    ]
    assert "car2" not in result.vehicles


def test_a_name_belongs_to_the_first_node_that_claims_it(tmp_path):
    result = run_once(tmp_path, {"car3": {"claims": "car0"}}, rounds=1)
    (record,) = result.records
    assert [(one.vehicle, one.reason) for one in record.rejections] == [
        ("node-103", "wrong_vehicle")
    ]


def test_a_round_without_quorum_leaves_the_model_alone_and_the_run_goes_on(tmp_path):
    bad = {"fault": "nan", "from_round": 2}
    result = run_once(
        tmp_path, {f"car{i}": bad for i in (1, 2)}, rounds=3, max_abandoned_in_a_row=3
    )
    assert [record.outcome for record in result.records] == ["done", "abandoned", "abandoned"]
    assert result.records[1].abandoned_because == "2 updates were accepted, quorum 3"
    once = run_once(tmp_path / "once", rounds=1)
    np.testing.assert_array_equal(result.model_N, once.model_N)
    # An unchanged model is not scored twice.
    assert result.records[0].per_vehicle
    assert not result.records[2].per_vehicle


def test_a_run_that_keeps_missing_its_quorum_ends_and_says_what_to_do(tmp_path):
    faults = {f"car{index}": "exception" for index in range(4)}
    with pytest.raises(TooManyAbandonedRoundsError, match=r"2 rounds in a row.*4 client_error"):
        run_once(tmp_path, faults, rounds=10, max_abandoned_in_a_row=2)
    assert len(rounds_without_time(tmp_path)) == 2
    verify_audit(tmp_path)


def test_whoever_is_not_needed_any_more_is_surplus(tmp_path):
    result = run_once(tmp_path, vehicles=6, cohort_size=3, over_selection=1.6, rounds=2)
    for record in result.records:
        assert (record.invited, record.completed, record.surplus) == (5, 3, 2)


def test_over_selection_makes_up_for_a_rejection(tmp_path):
    result = run_once(
        tmp_path, {"car1": "nan"}, vehicles=4, cohort_size=3, over_selection=1.34, rounds=3
    )
    assert [record.completed for record in result.records] == [3, 3, 3]


def test_the_last_rounds_can_be_averaged(tmp_path):
    class Models(SilentObserver):
        models = ()

        def round_finished(self, record):
            checkpoint = load_checkpoint(tmp_path / "checkpoint")
            assert checkpoint.round == record.round
            self.models = (*self.models, checkpoint.model_N)

    observer = Models()
    result = run_once(tmp_path, observer=observer, rounds=4, averaged_rounds=2)
    np.testing.assert_allclose(result.model_N, np.mean(observer.models[2:], axis=0), rtol=1e-5)
    assert not np.array_equal(result.model_N, observer.models[-1])


def test_vehicles_score_every_second_round_and_the_last(tmp_path):
    result = run_once(tmp_path, rounds=5, evaluate_every=2)
    scored = [record.round for record in result.records if record.balanced_accuracy is not None]
    assert scored == [2, 4, 5]


def test_a_part_of_the_fleet_scores(tmp_path):
    result = run_once(tmp_path, rounds=2, evaluation_cohort=2)
    assert [len(record.per_vehicle) for record in result.records] == [2, 2]


def test_updates_may_weigh_the_same(tmp_path):
    result = run_once(tmp_path, rounds=1, optimizer="fed_avg", weighting="equal")
    global_N, _ = initial_model(small_run())
    mean_N = np.mean([honest_update(f"car{i}", 1, global_N) for i in range(4)], axis=0)
    np.testing.assert_allclose(result.model_N, global_N + mean_N, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["fed_avg", "fed_avg_m", "fed_adam", "fed_yogi"])
def test_two_runs_of_one_seed_are_the_same_to_the_last_bit(tmp_path, optimizer):
    for name in ("a", "b"):
        run_once(tmp_path / name, optimizer=optimizer)
    assert rounds_without_time(tmp_path / "a") == rounds_without_time(tmp_path / "b")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second


def test_the_mean_of_the_last_models_is_scored_even_if_the_last_round_is_abandoned(tmp_path):
    bad = {"fault": "nan", "from_round": 3}
    result = run_once(tmp_path, {f"car{i}": bad for i in range(4)}, rounds=3, averaged_rounds=3)
    assert [record.outcome for record in result.records] == ["done", "done", "abandoned"]
    assert result.records[-1].balanced_accuracy is not None


class ListGrid:
    """A grid that, like Flower's own, says nothing of streaming."""

    def __init__(self, grid):
        self.get_node_ids = grid.get_node_ids
        self.push_messages = grid.push_messages
        self.pull_messages = grid.pull_messages


def test_a_grid_that_does_not_stream_gives_the_same_model(tmp_path):
    faults = {"car1": "nan", "car2": "exception"}
    settings = {"quorum": 1, "rounds": 2}
    run_once(tmp_path / "stream", faults, **settings)
    with fleet_grid(faults) as grid:
        run = small_run(**settings)
        run_federation(ListGrid(grid), run, tmp_path / "poll", resume=False)
    streamed, polled = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("stream", "poll")
    )
    assert streamed == polled


@pytest.mark.slow
def test_one_update_is_in_memory_at_a_time(tmp_path):
    with fleet_grid({"car1": "nan"}) as grid:
        pull, seen = grid.pull_messages, []

        def watched(message_ids):
            gc.collect()
            assert all(update() is None for update in seen), "an earlier update is still held"
            replies = pull(message_ids)
            seen.extend(weakref.ref(r) for r in replies if r.metadata.message_type == "train")
            return replies

        grid.pull_messages = watched
        run_federation(ListGrid(grid), small_run(rounds=2), tmp_path, resume=False)
    assert len(seen) == 8


class StopAfter(SilentObserver):
    """Presses Ctrl-C when a round is finished."""

    def __init__(self, number):
        self.number = number

    def round_finished(self, record):
        """See RunObserver."""
        if record.round == self.number:
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["fed_avg", "fed_avg_m", "fed_adam", "fed_yogi"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path, optimizer):
    faults = {"car1": "nan", "car2": {"fault": "last_round", "from_round": 2}}
    settings = {"optimizer": optimizer, "rounds": 4, "quorum": 1, "averaged_rounds": 3}
    run_once(tmp_path / "whole", faults, **settings)

    with pytest.raises(RunInterruptedError, match="--resume") as interrupted:
        run_once(tmp_path / "parts", faults, observer=StopAfter(2), **settings)
    assert interrupted.value.last_round == 2
    verify_audit(tmp_path / "parts")
    run_once(tmp_path / "parts", faults, resume=True, **settings)

    assert rounds_without_time(tmp_path / "parts") == rounds_without_time(tmp_path / "whole")
    model = (tmp_path / "parts" / "model.safetensors").read_bytes()
    assert model == (tmp_path / "whole" / "model.safetensors").read_bytes()
    verify_audit(tmp_path / "parts")


def test_a_finished_run_may_be_resumed_and_stays_what_it_is(tmp_path):
    run_once(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    result = run_once(tmp_path, resume=True)
    assert len(result.records) == 3
    assert (tmp_path / "model.safetensors").read_bytes() == before
    verify_audit(tmp_path)


def test_resuming_where_nothing_was_finished_starts_at_round_one(tmp_path):
    assert len(run_once(tmp_path, resume=True).records) == 3


def test_resuming_with_other_settings_is_refused_and_names_them(tmp_path):
    run_once(tmp_path)
    with pytest.raises(ChangedRunError, match=r"\[round\] rounds: 3 -> 5"):
        run_once(tmp_path, resume=True, rounds=5)


def test_a_directory_that_holds_a_run_is_not_written_over(tmp_path):
    run_once(tmp_path)
    before = (tmp_path / "audit.jsonl").read_bytes()
    with pytest.raises(RunExistsError, match="--resume"):
        run_once(tmp_path)
    assert (tmp_path / "audit.jsonl").read_bytes() == before


def test_overwriting_removes_the_run_and_nothing_else(tmp_path):
    run_once(tmp_path, rounds=5)
    (tmp_path / "notes.txt").write_text("mine")
    with fleet_grid() as grid:
        result = run_federation(grid, small_run(), tmp_path, resume=False, overwrite=True)
    assert len(result.records) == 3
    assert (tmp_path / "notes.txt").read_text() == "mine"
    verify_audit(tmp_path)


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    with fleet_grid() as grid, pytest.raises(UsageError, match="exclude"):
        run_federation(grid, small_run(), tmp_path, resume=True, overwrite=True)


def test_a_run_waits_for_its_vehicles_and_says_so(tmp_path):
    with pytest.raises(NoVehiclesError, match="4 of 5 vehicles"):
        run_once(tmp_path, min_vehicles=5, join_deadline_s=0.05)


def test_observers_hear_of_everything(tmp_path):
    heard = []

    class Listener(SilentObserver):
        def run_started(self, run, vehicles, first_round):
            heard.append((run.name, dict(vehicles), first_round))

        def round_started(self, number, cohort_size):
            heard.append(("round", number, cohort_size))

        def update_arrived(self, round_number, vehicle, accepted, reason):
            heard.append((round_number, vehicle, accepted, reason))

        def round_finished(self, record):
            heard.append(("finished", record.round))

    run_once(tmp_path, {"car1": "nan"}, vehicles=3, rounds=1, observer=Listener())
    assert heard[0] == ("test", {"car0": 50, "car1": 60, "car2": 70}, 1)
    assert heard[1] == ("round", 1, 3)
    assert sorted(heard[2:5], key=str) == [
        (1, "car0", True, None),
        (1, "car1", False, "not_finite"),
        (1, "car2", True, None),
    ]
    assert heard[5] == ("finished", 1)
