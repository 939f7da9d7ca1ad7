"""The two real apps with mask helpers: the same sums as with pairwise masks, and helpers that go."""

import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

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
from convoy_edge_client.vehicle_config import load_vehicle_config, save_vehicle_config
from convoy_privacy.certificates import Role
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.key_files import write_file
from convoy_privacy.party import REVOCATIONS, save_party
from convoy_privacy.sealing import SealingKey, generate_sealing_key
from convoy_server.audit import verify_audit
from convoy_server.errors import NoVehiclesError
from convoy_simulation.faults import FAULTS, FaultConfig, FaultRule

PEERS = UpdateConfig(codec="masked", modulus_bits=12)
HELPED = replace(PEERS, helpers=2)
EVERYBODY = [f"car{number}" for number in range(6)]
HELPERS = ["roadside0", "roadside1"]


@pytest.fixture(scope="module")
def peer_nodes(small_fleet):
    return protect(small_fleet, PEERS)


@pytest.fixture(scope="module")
def helped_nodes(small_fleet):
    return protect(small_fleet, HELPED)


def run_with(small_fleet, nodes, out, update=HELPED, *, faults=None, privacy=None, **rounds):
    run = small_run(update=update, **rounds)
    run = replace(run, privacy=replace(run.privacy, **(privacy or {})))
    rules = {
        name: rule if isinstance(rule, FaultRule) else FaultRule(kind=rule)
        for name, rule in (faults or {}).items()
    }
    run_small_federation(small_fleet, run, out, nodes=nodes, faults=FaultConfig(vehicles=rules))
    return round_lines(out)


def test_a_helped_run_ends_with_the_bytes_of_one_with_pairwise_masks(
    small_fleet, peer_nodes, helped_nodes, tmp_path
):
    """Masks cancel whoever took part in them, and the lanes are the same."""
    lines = run_with(small_fleet, helped_nodes, tmp_path / "helped")
    run_with(small_fleet, peer_nodes, tmp_path / "peers", PEERS)

    assert model_bytes(tmp_path / "helped") == model_bytes(tmp_path / "peers")
    for line in lines:
        assert (line["invited"], line["completed"], line["lost"], line["rejected"]) == (6, 6, 0, {})
        (shard,) = line["shards"]
        assert shard["summed"] == EVERYBODY
        assert (shard["helpers"], shard["helpers_lost"]) == (HELPERS, [])
        assert sorted(line["per_vehicle"]) == EVERYBODY  # a roadside unit is asked for no score
    verify_audit(tmp_path / "helped")


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "workers"), [("threads", 3), ("processes", 2)])
def test_no_engine_changes_a_byte_of_a_helped_run(
    small_fleet, helped_nodes, tmp_path, engine, workers
):
    run = small_run(update=replace(HELPED, shard_size=3))
    for out, kind, count in ((tmp_path / "a", "serial", 1), (tmp_path / "b", engine, workers)):
        run_small_federation(small_fleet, run, out, nodes=helped_nodes, engine=kind, workers=count)

    assert model_bytes(tmp_path / "a") == model_bytes(tmp_path / "b")


@pytest.mark.slow
@pytest.mark.parametrize("shard_size", [2, 3])
def test_shards_are_helped_one_by_one(small_fleet, tmp_path, shard_size):
    """One helper after the other remembers every shard of a round."""
    sizes = {"shard_size": shard_size, "minimum_cohort": 2}
    nodes = protect(small_fleet, replace(HELPED, **sizes))
    peers = protect(small_fleet, replace(PEERS, **sizes))
    lines = run_with(small_fleet, nodes, tmp_path / "helped", replace(HELPED, **sizes))
    run_with(small_fleet, peers, tmp_path / "peers", replace(PEERS, **sizes))

    assert model_bytes(tmp_path / "helped") == model_bytes(tmp_path / "peers")
    assert [len(line["shards"]) for line in lines] == [6 // shard_size] * 2


def test_a_vehicle_that_is_lost_before_its_upload_costs_the_sum_nothing(
    small_fleet, helped_nodes, peer_nodes, tmp_path
):
    faults = {"car4": "lost_before_upload"}
    (line,) = run_with(small_fleet, helped_nodes, tmp_path / "helped", faults=faults, rounds=1)
    run_with(small_fleet, peer_nodes, tmp_path / "peers", PEERS, faults=faults, rounds=1)

    assert model_bytes(tmp_path / "helped") == model_bytes(tmp_path / "peers")
    assert (line["completed"], line["lost"], line["lost_vehicles"]) == (5, 1, ["car4"])


def test_half_of_the_vehicles_may_go_where_pairwise_masks_have_no_sum(
    small_fleet, helped_nodes, peer_nodes, tmp_path
):
    faults = dict.fromkeys(("car0", "car2", "car4"), "lost_before_upload")
    rounds = {"rounds": 1, "quorum": 3}
    (helped,) = run_with(small_fleet, helped_nodes, tmp_path / "helped", faults=faults, **rounds)
    (peers,) = run_with(small_fleet, peer_nodes, tmp_path / "peers", PEERS, faults=faults, **rounds)

    assert (helped["outcome"], helped["completed"], helped["lost"]) == ("done", 3, 3)
    assert peers["outcome"] == "abandoned"


def test_below_the_minimum_no_helper_is_asked(small_fleet, helped_nodes, tmp_path):
    faults = dict.fromkeys(("car0", "car2", "car3", "car4"), "lost_before_upload")
    (line,) = run_with(
        small_fleet, helped_nodes, tmp_path, faults=faults, rounds=1, max_abandoned_in_a_row=2
    )

    assert line["shards"][0]["given_up"] == "uploads: 2, needed are 3"
    assert line["bytes_by_vehicle"].get("roadside0") is None


def test_a_lost_helper_costs_the_round_and_the_run_goes_on(small_fleet, helped_nodes, tmp_path):
    faults = {"roadside1": FaultRule(kind="lost_helper", rounds=(1,))}
    first, second = run_with(small_fleet, helped_nodes, tmp_path, faults=faults)

    assert (first["outcome"], first["completed"], first["lost"]) == ("abandoned", 0, 6)
    assert first["shards"][0]["given_up"] == "helper roadside1: no answer"
    assert first["shards"][0]["helpers_lost"] == ["roadside1"]
    assert "helper roadside1: no answer" in first["abandoned_because"]
    assert (second["outcome"], second["completed"]) == ("done", 6)


def test_who_stands_by_takes_the_place_of_a_lost_helper_in_the_next_round(small_fleet, tmp_path):
    nodes = protect(small_fleet, HELPED, units=3)
    faults = {"roadside0": "lost_helper"}
    first, *later = run_with(small_fleet, nodes, tmp_path, faults=faults, rounds=3)

    assert first["outcome"] == "abandoned"
    assert [line["outcome"] for line in later] == ["done", "done"]
    for line in later:
        assert line["shards"][0]["helpers"] == ["roadside1", "roadside2"]


def test_an_overflowed_sum_is_made_again_from_the_same_updates(
    small_fleet, helped_nodes, peer_nodes, tmp_path
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convoy_server.intake.NORM_WITHOUT_A_BOUND", 0.002)
        lines = run_with(small_fleet, helped_nodes, tmp_path / "helped", rounds=1)
        run_with(small_fleet, peer_nodes, tmp_path / "peers", PEERS, rounds=1)

    assert lines[0]["shards"][0]["attempts"] > 1
    assert lines[0]["completed"] == 6
    assert model_bytes(tmp_path / "helped") == model_bytes(tmp_path / "peers")


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
    "exception": "client_error",
    "nan": "client_error",
}


@pytest.mark.parametrize(("kind", "reason"), REFUSED.items())
def test_a_helped_round_outlives_every_fault(small_fleet, helped_nodes, tmp_path, kind, reason):
    (line,) = run_with(small_fleet, helped_nodes, tmp_path, faults={"car2": kind}, rounds=1)

    assert (line["outcome"], line["completed"]) == ("done", 5)
    assert line["rejected"] == {reason: 1}
    assert [one["vehicle"] for one in line["rejections"]] == ["car2"]
    assert kind in FAULTS


def test_all_bytes_of_helpers_are_counted(small_fleet, helped_nodes, tmp_path):
    (line,) = run_with(small_fleet, helped_nodes, tmp_path, rounds=1)

    lanes = line["update_parameters"]
    for name in HELPERS:
        assert (
            line["bytes_by_vehicle"][name]["uplink"] > 2 * lanes
        )  # uint16 lanes, as they are added
        assert line["bytes_by_vehicle"][name]["downlink"] > 6 * 64
    assert line["uplink_bytes"] == sum(one["uplink"] for one in line["bytes_by_vehicle"].values())


def test_a_vehicle_asks_for_as_many_helpers_as_its_own_configuration_says(small_fleet, tmp_path):
    nodes = protect(small_fleet, replace(HELPED, helpers=3))
    (line,) = run_with(small_fleet, nodes, tmp_path, HELPED, rounds=1)

    assert line["rejected"] == {"client_error": 6}
    assert "2 mask helpers, at least 3 are asked for" in line["rejections"][0]["detail"]


def change_node(nodes, number, **changes):
    """One of the nodes has another configuration from now on."""
    path = Path(nodes[number]["vehicle-config"])
    save_vehicle_config(replace(load_vehicle_config(path), **changes), path)


def test_a_vehicle_that_trains_may_help_too(small_fleet, tmp_path):
    """Roadside unit 1's certificate moves into car0."""
    nodes = protect(small_fleet, HELPED)
    unit = load_vehicle_config(Path(nodes.pop(107)["vehicle-config"]))
    change_node(nodes, 100, helper_identity=unit.helper_identity)
    lines = run_with(small_fleet, nodes, tmp_path)

    for line in lines:
        assert line["completed"] == 6
        assert line["shards"][0]["helpers"] == ["car0", "roadside0"]


def test_a_helper_of_another_fleet_is_none(small_fleet, tmp_path):
    nodes = protect(small_fleet, HELPED)
    now = datetime.now(UTC)
    authority = FleetAuthority.create(now)
    identity = authority.issue("roadside1", Role.HELPER, now)
    key: SealingKey = generate_sealing_key("x25519", lambda count: bytes(range(count)))
    folder = tmp_path / "foreign"
    save_party(folder, authority, identity.certificate, identity.signing_key, key)
    change_node(nodes, 107, helper_identity=str(folder))

    with pytest.raises(NoVehiclesError, match="1 of 2 mask helpers"):
        run_with(small_fleet, nodes, tmp_path / "run", join_deadline_s=0.1)


def test_noise_is_shared_among_the_fewest_that_a_helped_sum_may_have(
    small_fleet, helped_nodes, tmp_path
):
    update = replace(HELPED, modulus_bits=16)
    privacy = {"clip_norm": 0.5, "noise_multiplier": 0.5}
    first, second = run_with(small_fleet, helped_nodes, tmp_path, update, privacy=privacy)

    assert 0.0 < first["epsilon"] < second["epsilon"]
    assert first["train_loss"] is None
    assert first["shards"][0]["wrap_ratio"] < 0.3
    load_parameters(tmp_path / "model.safetensors")


def test_scores_are_summed_with_pairwise_masks_all_the_same(small_fleet, tmp_path):
    nodes = protect(small_fleet, HELPED, metrics="summed")
    lines = run_with(small_fleet, nodes, tmp_path, rounds=1)

    for line in lines:
        assert line["completed"] == 6
        assert line["shards"][0]["helpers"] == HELPERS
        assert line["score_sums"][0]["summed"] == EVERYBODY
        assert line["score_sums"][0]["helpers"] == []
        assert 0.0 < line["balanced_accuracy"] < 1.0


def test_whom_the_fleet_has_revoked_vehicles_and_helpers_hear_from_the_server(
    small_fleet, tmp_path
):
    """A vehicle goes by it before it seals a seed to a helper."""
    now = datetime.now(UTC)
    authority = FleetAuthority.create(now)
    nodes = protect(small_fleet, HELPED)
    fleet = Path(nodes[100]["vehicle-config"]).parent
    folders = {name: fleet / "identities" / name for name in [*EVERYBODY, *HELPERS]}
    for name, folder in (folders | {"aggregator": fleet / "aggregator"}).items():
        role = {"car": Role.VEHICLE, "roa": Role.HELPER, "agg": Role.AGGREGATOR}[name[:3]]
        identity = authority.issue(name, role, now)
        key = None if role is Role.VEHICLE else generate_sealing_key("x25519", os.urandom)
        shutil.rmtree(folder)
        save_party(folder, authority, identity.certificate, identity.signing_key, key)
    authority.issue("car9", Role.VEHICLE, now)
    authority.revoke("car9", now)
    write_file(fleet / "aggregator" / REVOCATIONS, authority.revocation_list)

    (line,) = run_with(small_fleet, nodes, tmp_path, rounds=1)

    assert line["completed"] == 6
    held = {folder: (folder / REVOCATIONS).read_bytes() for folder in folders.values()}
    assert set(held.values()) == {authority.revocation_list}


def test_a_roadside_unit_s_file_is_short(helped_nodes):
    own = json.loads(Path(helped_nodes[106]["vehicle-config"]).read_text())
    assert (own["vehicle_id"], own["recordings"], own["identity"]) == ("roadside0", [], "")
