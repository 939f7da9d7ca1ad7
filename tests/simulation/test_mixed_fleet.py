"""Fleets whose vehicles do not agree: one keeps its figures, one is revoked, one asks for more than the rest."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from small_federation import PLAIN, protect, round_lines, run_small_federation, small_run

from convoy_compression.update.codec import UpdateConfig
from convoy_driving.parameters import load_parameters
from convoy_edge_client.vehicle_config import load_vehicle_config, save_vehicle_config
from convoy_privacy.certificates import Role
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.party import save_party
from convoy_privacy.sealing import generate_sealing_key
from convoy_server.app import initial_model
from convoy_simulation.faults import FAULTS, FaultConfig, FaultRule
from convoy_simulation.vehicles import AGGREGATOR

MASKED = UpdateConfig(codec="masked", modulus_bits=12)
SEALED = UpdateConfig(codec="sealed", sealed_step=0.05)
CAR3 = 103
"""The node that car3 is behind."""


def change(nodes, node, **own):
    """Change one vehicle's own configuration."""
    file = Path(nodes[node]["vehicle-config"])
    save_vehicle_config(replace(load_vehicle_config(file), **own), file)


def one_round(fleet, nodes, out, update, faults=(), **rounds):
    run = small_run(update=update, **{"rounds": 1, **rounds})
    rules = {name: FaultRule(kind=kind) for name, kind in dict(faults).items()}
    run_small_federation(fleet, run, out, nodes=nodes, faults=FaultConfig(vehicles=rules))
    return round_lines(out)[-1]


@pytest.mark.parametrize("update", [MASKED, SEALED], ids=["masked", "sealed"])
def test_one_that_withholds_its_figures_is_in_the_sum_and_in_no_figure_of_its_own(
    small_fleet, tmp_path, update
):
    nodes = protect(small_fleet, update)
    change(nodes, CAR3, metrics="withheld")

    line = one_round(small_fleet, nodes, tmp_path, update)

    assert (line["completed"], line["rejected"]) == (6, {})
    assert set(line["per_vehicle"]) == {f"car{number}" for number in (0, 1, 2, 4, 5)}
    assert line["evaluation_rejections"] == line["evaluation_lost"] == []
    assert 0.0 <= line["balanced_accuracy"] <= 1.0
    assert line["train_loss"] > 0.0


def fleet_with_a_revoked_vehicle(small_fleet, folder):
    """Identities for all, car3's revoked; only the server has the list with it."""
    now = datetime.now(UTC)
    authority = FleetAuthority.create(now)
    nodes = {}
    for node, path in enumerate(small_fleet.vehicles.values(), start=100):
        vehicle = load_vehicle_config(path)
        identity = authority.issue(vehicle.vehicle_id, Role.VEHICLE, now)
        keys = folder / "keys" / vehicle.vehicle_id
        save_party(keys, authority, identity.certificate, identity.signing_key)
        file = folder / f"{vehicle.vehicle_id}.json"
        save_vehicle_config(replace(vehicle, identity=str(keys), least_protection="sealed"), file)
        nodes[node] = {"vehicle-config": str(file)}
    server = authority.issue("cloud", Role.AGGREGATOR, now)
    authority.revoke("car3", now)
    sealing_key = generate_sealing_key("x25519", lambda count: bytes(range(count)))
    save_party(folder / AGGREGATOR, authority, server.certificate, server.signing_key, sealing_key)
    return nodes


@pytest.mark.parametrize("update", [MASKED, SEALED], ids=["masked", "sealed"])
def test_a_revoked_vehicle_is_refused_by_name_and_the_others_go_on(small_fleet, tmp_path, update):
    nodes = fleet_with_a_revoked_vehicle(small_fleet, tmp_path)

    line = one_round(small_fleet, nodes, tmp_path / "run", update)

    assert (line["outcome"], line["completed"], line["lost"]) == ("done", 5, 0)
    assert line["rejected"] == {"untrusted": 1}
    assert line["rejections"][0]["vehicle"] == "car3"
    assert "revoked" in line["rejections"][0]["detail"]


def test_one_that_insists_on_masks_sits_out_where_the_others_send_all(small_fleet, tmp_path):
    nodes = protect(small_fleet, MASKED)
    for node in set(nodes) - {CAR3}:
        change(nodes, node, least_protection="none")

    line = one_round(small_fleet, nodes, tmp_path, PLAIN)

    assert (line["completed"], line["rejected"]) == (5, {"client_error": 1})
    assert line["rejections"][0]["vehicle"] == "car3"
    assert "least_protection" in line["rejections"][0]["detail"]


def test_one_that_asks_for_a_larger_sum_sits_out_and_the_others_sum(small_fleet, tmp_path):
    nodes = protect(small_fleet, MASKED)
    change(nodes, CAR3, minimum_cohort=50)

    line = one_round(small_fleet, nodes, tmp_path, MASKED)

    assert (line["completed"], line["rejected"]) == (5, {"client_error": 1})
    assert "at least 50" in line["rejections"][0]["detail"]
    assert "car3" not in line["shards"][0]["summed"]


SEALED_FAULTS = {
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
    # Whatever else is changed on the way, the signature covers.
    "nan": "bad_signature",
    "infinite": "bad_signature",
    "zero_examples": "bad_signature",
    "absurd_examples": "bad_signature",
    "extra_metric": "bad_signature",
    "missing_metric": "bad_signature",
    "exception": "client_error",
    "poison": "client_error",  # cannot be injected from outside
}


@pytest.fixture(scope="module")
def sealed_nodes(small_fleet):
    return protect(small_fleet, SEALED)


@pytest.mark.parametrize(("kind", "reason"), SEALED_FAULTS.items())
def test_a_sealed_round_outlives_every_fault(small_fleet, sealed_nodes, tmp_path, kind, reason):
    line = one_round(small_fleet, sealed_nodes, tmp_path, SEALED, {"car2": kind})

    assert (line["outcome"], line["completed"]) == ("done", 5)
    assert line["rejected"] == {reason: 1}
    assert [one["vehicle"] for one in line["rejections"]] == ["car2"]


def test_a_sealed_update_of_the_round_before_is_a_replay(small_fleet, sealed_nodes, tmp_path):
    line = one_round(small_fleet, sealed_nodes, tmp_path, SEALED, {"car2": "replayed"}, rounds=2)

    assert (line["completed"], line["rejected"]) == (5, {"replayed": 1})


def test_every_fault_is_watched_where_updates_are_sealed():
    elsewhere = {
        "replayed",  # needs a second round
        "never_answers",  # lost before anything is sealed
        "lost_after_check_in",  # stages of a masked sum
        "lost_before_upload",
        "lost_before_unmask",
        "lost_helper",  # of a masked sum with mask helpers
    }
    assert set(SEALED_FAULTS) | elsewhere == set(FAULTS)


@pytest.mark.parametrize("codec", ["float32", "float16", "sealed"])
def test_a_frozen_layer_costs_no_bytes(small_fleet, sealed_nodes, tmp_path, codec):
    update = UpdateConfig(codec=codec, downlink="full")
    nodes = sealed_nodes if codec == "sealed" else None
    run = small_run(update=update, rounds=1)
    start_N, schema = initial_model(run)
    training = replace(run.training, freeze=(schema.names[0].rsplit(".", 1)[0],))
    lines = {}
    for name, one in (("whole", run), ("frozen", replace(run, training=training))):
        run_small_federation(small_fleet, one, tmp_path / name, nodes=nodes)
        (lines[name],) = round_lines(tmp_path / name)

    frozen = start_N.size - lines["frozen"]["update_parameters"]
    assert frozen > 0
    saved = lines["whole"]["update_uplink_bytes"] - lines["frozen"]["update_uplink_bytes"]
    if codec == "sealed":
        assert saved > 0
    else:
        bytes_each = {"float32": 4, "float16": 2}[codec]
        # Numbers of another size make a header a byte longer or shorter.
        assert abs(saved - 6 * bytes_each * frozen) <= 6 * 4
    moved_N = load_parameters(tmp_path / "frozen" / "model.safetensors")[0] - start_N
    assert np.count_nonzero(moved_N[:frozen]) == 0
