"""The two real apps with masked and with sealed updates, and vehicles that misbehave in every way."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from small_federation import (
    model_bytes,
    protect,
    round_lines,
    run_small_federation,
    small_run,
)

from convoy_compression.update.codec import UpdateConfig
from convoy_driving.parameters import load_parameters
from convoy_privacy.certificates import Role
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.party import save_party
from convoy_protos.errors import UsageError
from convoy_server.app import initial_model
from convoy_server.audit import verify_audit
from convoy_server.robust.canary import CanaryConfig, CanaryScore
from convoy_server.robust.registry import RobustConfig
from convoy_simulation.faults import FAULTS, FaultConfig, FaultRule

MASKED = UpdateConfig(codec="masked", modulus_bits=12)
SEALED = UpdateConfig(codec="sealed", sealed_step=0.05)


@pytest.fixture(scope="module")
def masked_nodes(small_fleet):
    return protect(small_fleet, MASKED)


def run_masked(small_fleet, nodes, out, update=MASKED, faults=None, **rounds):
    run = small_run(update=update, **rounds)
    rules = {name: FaultRule(kind=kind) for name, kind in (faults or {}).items()}
    run_small_federation(small_fleet, run, out, nodes=nodes, faults=FaultConfig(vehicles=rules))
    return round_lines(out)


def moved(out, before_N):
    """How the global model moved in the whole run."""
    return load_parameters(out / "model.safetensors")[0] - before_N


@pytest.fixture(scope="module")
def plain_model(small_fleet, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain")
    run_small_federation(small_fleet, small_run(), out)
    return load_parameters(out / "model.safetensors")[0]


def distance(out, plain_N, start_N):
    """Error of the run's way over the way itself, squared."""
    way_N = plain_N - start_N
    error_N = load_parameters(out / "model.safetensors")[0] - plain_N
    return float(error_N @ error_N) / float(way_N @ way_N)


@pytest.fixture(scope="module", name="start_N")
def parameters_at_the_start():
    return initial_model(small_run())[0]


def test_a_masked_run_goes_where_a_plain_one_goes(
    small_fleet, masked_nodes, plain_model, start_N, tmp_path
):
    lines = run_masked(small_fleet, masked_nodes, tmp_path, replace(MASKED, downlink="full"))

    assert distance(tmp_path, plain_model, start_N) < 0.01
    for line in lines:
        assert (line["completed"], line["lost"], line["rejected"]) == (6, 0, {})
        (shard,) = line["shards"]
        assert shard["summed"] == sorted(f"car{number}" for number in range(6))
        assert 0.0 < shard["wrap_ratio"] < 0.3
    verify_audit(tmp_path)


def test_a_sealed_run_goes_where_a_plain_one_goes(small_fleet, plain_model, start_N, tmp_path):
    nodes = protect(small_fleet, SEALED)
    lines = run_masked(small_fleet, nodes, tmp_path, replace(SEALED, downlink="full"))

    assert distance(tmp_path, plain_model, start_N) < 0.01
    assert [line["completed"] for line in lines] == [6, 6]


def test_differences_on_the_way_down_lead_every_vehicle_to_the_server_s_model(
    small_fleet, plain_model, start_N, tmp_path
):
    """A vehicle refuses a model whose digest is not the server's."""
    plain = UpdateConfig(codec="float32", downlink="delta", downlink_step=0.1)
    run_small_federation(small_fleet, small_run(update=plain), tmp_path)

    assert distance(tmp_path, plain_model, start_N) < 0.05
    first, second = round_lines(tmp_path)
    assert (first["completed"], second["completed"]) == (6, 6)
    assert second["downlink_bytes"] < 0.3 * second["float32_downlink_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "workers"), [("threads", 3), ("processes", 2)])
def test_no_engine_changes_a_byte_of_a_masked_run(
    small_fleet, masked_nodes, tmp_path, engine, workers
):
    run = small_run(update=MASKED)
    for out, kind, count in ((tmp_path / "a", "serial", 1), (tmp_path / "b", engine, workers)):
        run_small_federation(small_fleet, run, out, nodes=masked_nodes, engine=kind, workers=count)

    assert model_bytes(tmp_path / "a") == model_bytes(tmp_path / "b")
    lines = [round_lines(tmp_path / name) for name in "ab"]
    for line in [*lines[0], *lines[1]]:
        drop_what_keys_change(line)
    assert lines[0] == lines[1]


def test_other_keys_do_not_change_a_byte_of_the_model(small_fleet, tmp_path):
    """Masks cancel, so keys drawn anew leave no trace in the sum."""
    run = small_run(update=MASKED)
    for name in "ab":
        run_small_federation(small_fleet, run, tmp_path / name, nodes=protect(small_fleet, MASKED))
    assert model_bytes(tmp_path / "a") == model_bytes(tmp_path / "b")


LOST = ("lost_after_check_in", "lost_before_upload", "never_answers")


@pytest.mark.parametrize("kind", LOST)
def test_who_is_lost_at_any_stage_is_one_lost_vehicle(small_fleet, masked_nodes, tmp_path, kind):
    (line,) = run_masked(small_fleet, masked_nodes, tmp_path, faults={"car4": kind}, rounds=1)

    assert (line["outcome"], line["completed"], line["lost"]) == ("done", 5, 1)
    assert line["lost_vehicles"] == ["car4"]
    assert line["shards"][0]["summed"] == ["car0", "car1", "car2", "car3", "car5"]


def test_who_is_lost_after_its_upload_is_in_the_sum(small_fleet, masked_nodes, tmp_path):
    faults = {"car4": "lost_before_unmask"}
    (line,) = run_masked(small_fleet, masked_nodes, tmp_path, faults=faults, rounds=1)

    assert (line["completed"], line["lost"]) == (6, 0)


def test_the_sum_without_a_lost_vehicle_is_that_of_the_others(small_fleet, masked_nodes, tmp_path):
    for name, kind in (("a", "lost_before_upload"), ("b", "never_answers")):
        run_masked(small_fleet, masked_nodes, tmp_path / name, faults={"car4": kind}, rounds=1)
    one, other = (load_parameters(tmp_path / name / "model.safetensors")[0] for name in "ab")
    # Five instead of six in the roster give other slots, so another dither: close, not equal.
    np.testing.assert_allclose(one, other, atol=2e-3)


REFUSED = {
    "wrong_length": "wrong_length",
    "wrong_schema": "wrong_schema",
    "wrong_round": "wrong_round",
    "wrong_run": "wrong_run",
    "wrong_vehicle": "wrong_vehicle",
    "wrong_codec": "wrong_codec",
    "wrong_context": "wrong_context",
    "forged_signature": "bad_signature",
    "truncated": "truncated",
    "oversized": "oversized",
    "malformed": "malformed",
    "absurd_examples": "bad_example_count",
    "extra_metric": "wrong_metrics",
    "missing_metric": "wrong_metrics",
    "exception": "client_error",
    "nan": "client_error",
    "infinite": "client_error",
}


@pytest.mark.parametrize(("kind", "reason"), REFUSED.items())
def test_a_masked_round_outlives_every_fault(small_fleet, masked_nodes, tmp_path, kind, reason):
    (line,) = run_masked(small_fleet, masked_nodes, tmp_path, faults={"car2": kind}, rounds=1)

    assert (line["outcome"], line["completed"]) == ("done", 5)
    assert line["rejected"] == {reason: 1}
    assert [one["vehicle"] for one in line["rejections"]] == ["car2"]


def test_every_fault_is_watched_under_masks():
    elsewhere = {
        "replayed",  # needs a second round; below
        "zero_examples",  # a vehicle may keep its count for the masked sum
        "poison",  # nothing is wrong with it by itself
        "lost_before_unmask",
        "lost_helper",  # test_helped_federation.py
    }
    assert set(REFUSED) | set(LOST) | elsewhere == set(FAULTS)


def test_an_upload_of_the_round_before_is_a_replay(small_fleet, masked_nodes, tmp_path):
    lines = run_masked(small_fleet, masked_nodes, tmp_path, faults={"car2": "replayed"})

    assert [line["rejected"] for line in lines] == [{}, {"replayed": 1}]


def test_below_the_threshold_there_is_no_sum_and_the_run_goes_on(
    small_fleet, masked_nodes, tmp_path
):
    faults = {f"car{number}": "lost_before_upload" for number in range(2)}
    lines = run_masked(small_fleet, masked_nodes, tmp_path, faults=faults, max_abandoned_in_a_row=3)

    assert [line["outcome"] for line in lines] == ["abandoned", "abandoned"]
    assert "uploads" in lines[0]["shards"][0]["given_up"]
    assert lines[0]["completed"] == 0


def test_shards_are_summed_one_by_one(small_fleet, masked_nodes, plain_model, start_N, tmp_path):
    update = replace(MASKED, shard_size=3, downlink="full")
    lines = run_masked(small_fleet, masked_nodes, tmp_path, update)

    assert [len(shard["summed"]) for shard in lines[0]["shards"]] == [3, 3]
    assert distance(tmp_path, plain_model, start_N) < 0.01


@pytest.mark.slow
def test_the_geometric_median_over_shards_withstands_a_poisoned_one(small_fleet, start_N, tmp_path):
    update = replace(MASKED, shard_size=2, minimum_cohort=2, downlink="full")
    nodes = protect(small_fleet, update)
    ways = {}
    for name, rule, faults in (
        ("honest", "mean", {}),
        ("mean", "mean", {"car3": "poison"}),
        ("median", "geometric_median", {"car3": "poison"}),
    ):
        run = replace(
            small_run(update=update, rounds=1, weighting="equal"),
            aggregation=RobustConfig(rule=rule),
        )
        rules = {vehicle: FaultRule(kind=kind) for vehicle, kind in faults.items()}
        run_small_federation(
            small_fleet, run, tmp_path / name, nodes=nodes, faults=FaultConfig(vehicles=rules)
        )
        ways[name] = moved(tmp_path / name, start_N)
    errors = {name: float(np.sum((way - ways["honest"]) ** 2)) for name, way in ways.items()}
    assert errors["median"] < 0.8 * errors["mean"]


def test_a_vehicle_that_withholds_its_figures_is_in_the_sum_and_in_no_figure(small_fleet, tmp_path):
    nodes = protect(small_fleet, MASKED, metrics="withheld")
    lines = run_masked(small_fleet, nodes, tmp_path)

    for line in lines:
        assert line["completed"] == 6
        assert line["per_vehicle"] == {}
        assert line["balanced_accuracy"] is line["train_loss"] is None
        assert line["score_sums"] == []


def test_scores_given_to_masked_sums_only_are_the_fleet_s_figures(small_fleet, tmp_path):
    told = protect(small_fleet, MASKED)
    summed = protect(small_fleet, MASKED, metrics="summed")
    # Nobody declares how many examples it has, so updates weigh the same.
    equal = {"weighting": "equal"}
    open_lines = run_masked(small_fleet, told, tmp_path / "told", **equal)
    closed_lines = run_masked(small_fleet, summed, tmp_path / "summed", **equal)

    assert model_bytes(tmp_path / "told") == model_bytes(tmp_path / "summed")
    for before, line in zip(open_lines, closed_lines, strict=True):
        assert line["per_vehicle"] == {}
        assert line["evaluation_rejections"] == line["evaluation_lost"] == []
        assert len(line["score_sums"][0]["summed"]) == 6
        for name in ("balanced_accuracy", "accuracy", "throttle_mae", "train_loss"):
            assert line[name] == pytest.approx(before[name], abs=1e-5)


def test_a_lost_vehicle_is_missing_in_the_sum_of_scores_and_the_rest_is_known(
    small_fleet, tmp_path
):
    nodes = protect(small_fleet, MASKED, metrics="summed")
    faults = {"car4": "lost_before_upload"}
    (line,) = run_masked(small_fleet, nodes, tmp_path, faults=faults, rounds=1)

    assert line["score_sums"][0]["summed"] == ["car0", "car1", "car2", "car3", "car5"]
    assert line["evaluation_lost"] == ["car4"]
    assert 0.0 <= line["balanced_accuracy"] <= 1.0


def test_of_too_few_that_give_scores_to_sums_only_nothing_is_known(small_fleet, tmp_path):
    """Two among four that tell theirs: a sum over the two would show much of each."""
    nodes = protect(small_fleet, MASKED)
    for node in (101, 104):
        file = Path(nodes[node]["vehicle-config"])
        file.write_text(json.dumps({**json.loads(file.read_text()), "metrics": "summed"}))
    (line,) = run_masked(small_fleet, nodes, tmp_path, rounds=1)

    assert set(line["per_vehicle"]) == {"car0", "car2", "car3", "car5"}
    assert line["score_sums"] == []
    assert sorted(line["evaluation_lost"]) == ["car1", "car4"]


def test_beside_noise_no_exact_scores_are_summed(small_fleet, tmp_path):
    nodes = protect(small_fleet, MASKED, metrics="summed")
    run_small_federation(small_fleet, private_run(), tmp_path, nodes=nodes)
    for line in round_lines(tmp_path):
        assert line["balanced_accuracy"] is None
        assert line["score_sums"] == []


def test_a_vehicle_that_insists_on_masks_sends_nothing_else(small_fleet, tmp_path):
    nodes = protect(small_fleet, MASKED)
    run = small_run(rounds=1)
    run_small_federation(small_fleet, run, tmp_path, nodes=nodes)

    (line,) = round_lines(tmp_path)
    assert line["outcome"] == "abandoned"
    assert line["rejected"] == {"client_error": 6}
    assert "least_protection" in line["rejections"][0]["detail"]


def test_a_vehicle_refuses_a_sum_of_too_few(small_fleet, tmp_path):
    nodes = protect(small_fleet, replace(MASKED, minimum_cohort=6), minimum_cohort=6)
    (line,) = run_masked(small_fleet, nodes, tmp_path, rounds=1)

    assert line["rejected"] == {"client_error": 6}
    assert "at least 6" in line["rejections"][0]["detail"]


def test_a_vehicle_of_another_fleet_is_refused_by_name(small_fleet, tmp_path):
    nodes = protect(small_fleet, MASKED)
    foreign = json.loads(Path(nodes[103]["vehicle-config"]).read_text())
    (line,) = run_masked(
        small_fleet,
        {**nodes, 103: foreign_node(foreign, tmp_path)},
        tmp_path / "run",
        rounds=1,
    )

    assert line["rejected"] == {"untrusted": 1}
    assert line["rejections"][0]["vehicle"] == "car3"
    assert line["completed"] == 5


def foreign_node(table, folder):
    """car3 with an identity that another CA has issued."""
    now = datetime.now(UTC)
    authority = FleetAuthority.create(now)
    identity = authority.issue("car3", Role.VEHICLE, now)
    save_party(folder / "foreign", authority, identity.certificate, identity.signing_key)
    path = folder / "car3.json"
    path.write_text(json.dumps({**table, "identity": str(folder / "foreign")}))
    return {"vehicle-config": str(path)}


def test_frozen_layers_are_neither_sent_nor_masked(small_fleet, masked_nodes, start_N, tmp_path):
    run = small_run(update=replace(MASKED, downlink="full"), rounds=1)
    first_layer = initial_model(run)[1].names[0].rsplit(".", 1)[0]
    training = replace(run.training, freeze=(first_layer,))
    run_small_federation(small_fleet, replace(run, training=training), tmp_path, nodes=masked_nodes)

    (line,) = round_lines(tmp_path)
    assert line["completed"] == 6
    assert line["update_parameters"] < start_N.size
    moved_N = moved(tmp_path, start_N)
    frozen = start_N.size - line["update_parameters"]
    assert not moved_N[:frozen].any()
    assert moved_N[frozen:].any()


def test_a_collapse_is_rolled_back_and_said(small_fleet, masked_nodes, start_N, tmp_path):
    def canary(model_N):
        same = np.array_equal(model_N, start_N)
        return CanaryScore(balanced_accuracy=0.9 if same else 0.3, loss=1.0)

    run = replace(small_run(update=MASKED, rounds=1), canary=CanaryConfig(recordings=("own",)))
    run_small_federation(small_fleet, run, tmp_path, nodes=masked_nodes, canary=canary)

    (line,) = round_lines(tmp_path)
    assert line["outcome"] == "abandoned"
    assert "rolled back" in line["abandoned_because"]
    np.testing.assert_array_equal(load_parameters(tmp_path / "model.safetensors")[0], start_N)


def test_clipping_follows_the_fleet(small_fleet, masked_nodes, tmp_path):
    run = small_run(update=MASKED)
    privacy = replace(run.privacy, clip_norm=0.001, clip_quantile=0.5)
    run_small_federation(small_fleet, replace(run, privacy=privacy), tmp_path, nodes=masked_nodes)

    first, second = round_lines(tmp_path)
    assert (first["clip_norm"], first["clipped_share"]) == (0.001, 1.0)
    assert second["clip_norm"] == pytest.approx(0.001 * np.exp(0.2 * 0.5))


@pytest.mark.slow
def test_a_range_that_was_too_small_in_every_attempt_is_larger_in_the_next_round(
    small_fleet, masked_nodes, tmp_path
):
    """The bound says so little that a range from it overflows at once."""
    run = small_run(update=replace(MASKED, max_attempts=1), rounds=9, max_abandoned_in_a_row=9)
    training = replace(run.training, learning_rate=0.05)
    privacy = replace(run.privacy, clip_norm=None)
    run = replace(run, training=training, privacy=privacy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convoy_server.intake.NORM_WITHOUT_A_BOUND", 0.001)
        run_small_federation(small_fleet, run, tmp_path, nodes=masked_nodes)

    outcomes = [line["outcome"] for line in round_lines(tmp_path)]
    assert outcomes[0] == "abandoned"
    assert outcomes[-1] == "done"
    assert "overflowed" in round_lines(tmp_path)[0]["abandoned_because"]


def private_run(**privacy):
    run = small_run(update=replace(MASKED, modulus_bits=16))
    own = replace(run.privacy, clip_norm=0.5, noise_multiplier=0.5, **privacy)
    return replace(run, privacy=own)


def test_noise_is_in_the_sum_and_in_the_account(small_fleet, masked_nodes, start_N, tmp_path):
    run_small_federation(small_fleet, private_run(), tmp_path / "a", nodes=masked_nodes)
    run_small_federation(small_fleet, private_run(), tmp_path / "b", nodes=masked_nodes)

    first, second = round_lines(tmp_path / "a")
    assert 0.0 < first["epsilon"] < second["epsilon"]
    assert first["train_loss"] is None  # an exact sum would tell what the noise hides
    assert first["shards"][0]["wrap_ratio"] < 0.3
    one, other = moved(tmp_path / "a", start_N), moved(tmp_path / "b", start_N)
    assert not np.allclose(one, other, atol=1e-3)  # vehicles draw it anew each time


def test_a_run_ends_before_it_exceeds_its_privacy_budget(small_fleet, masked_nodes, tmp_path):
    run_small_federation(small_fleet, private_run(), tmp_path / "free", nodes=masked_nodes)
    spent = round_lines(tmp_path / "free")[0]["epsilon"]

    bounded = private_run(epsilon_budget=1.01 * spent)
    run_small_federation(small_fleet, bounded, tmp_path / "bounded", nodes=masked_nodes)

    (only,) = round_lines(tmp_path / "bounded")
    assert only["epsilon"] == spent
    verify_audit(tmp_path / "bounded")


def test_clipping_follows_the_fleet_under_noise_and_its_count_is_in_the_account(
    small_fleet, masked_nodes, tmp_path
):
    still, moving = private_run(), private_run(clip_quantile=0.5, clip_count_stddev=5.0)
    for name, run in (("still", still), ("moving", moving)):
        run_small_federation(small_fleet, run, tmp_path / name, nodes=masked_nodes)

    fixed, (first, second) = round_lines(tmp_path / "still"), round_lines(tmp_path / "moving")
    assert [line["clip_norm"] for line in fixed] == [0.5, 0.5]
    assert fixed[0]["clipped_share"] is None
    assert first["clip_norm"] == 0.5
    untouched = 1.0 - min(1.0, max(0.0, first["clipped_share"]))
    assert second["clip_norm"] == pytest.approx(0.5 * np.exp(-0.2 * (untouched - 0.5)))
    assert second["shards"][0]["step"] / first["shards"][0]["step"] == pytest.approx(
        second["clip_norm"] / 0.5, rel=0.01
    )
    # The updates carry more noise by what the count takes: together they are as private as before.
    assert second["epsilon"] == pytest.approx(fixed[1]["epsilon"], rel=0.01)


def test_noise_without_room_in_the_modulus_is_refused_with_the_way_out(
    small_fleet, masked_nodes, tmp_path
):
    run = private_run()
    run = replace(run, update=replace(run.update, modulus_bits=3))
    with pytest.raises(UsageError, match="modulus_bits: 3 bits have no room"):
        run_small_federation(small_fleet, run, tmp_path, nodes=masked_nodes)


@pytest.mark.parametrize(("sampling", "cohort"), [("poisson", 4), ("fixed", 4)])
def test_a_cohort_may_be_drawn_by_chance(small_fleet, masked_nodes, tmp_path, sampling, cohort):
    run = small_run(update=MASKED, sampling=sampling, cohort_size=cohort, rounds=4, quorum=1)
    run_small_federation(small_fleet, run, tmp_path, nodes=masked_nodes)

    invited = [line["invited"] for line in round_lines(tmp_path)]
    assert (len(set(invited)) > 1) == (sampling == "poisson")


def drop_what_keys_change(line):
    """Certificates and signatures are drawn anew; some are a byte longer than others."""
    for name in ("uplink_bytes", "downlink_bytes", "update_uplink_bytes", "bytes_by_vehicle"):
        line.pop(name)
