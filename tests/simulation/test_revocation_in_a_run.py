"""A vehicle that is revoked while a run goes on is in no round after that, masked or sealed."""

import os
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from flwr.app import RecordDict
from small_federation import round_lines, small_run

from convoy_compression.update.codec import UpdateConfig
from convoy_edge_client.app import make_client_app
from convoy_edge_client.vehicle_config import load_vehicle_config, save_vehicle_config
from convoy_privacy import key_files
from convoy_privacy.certificates import Role
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.party import REVOCATIONS, load_party, save_party, with_newest_revocations
from convoy_privacy.sealing import generate_sealing_key
from convoy_protos.flower_internals import SERVER_NODE_ID, make_context
from convoy_server.app import make_server_app
from convoy_server.observer import SilentObserver
from convoy_server.run_config import run_config_to_json
from convoy_simulation.in_process_grid import InProcessGrid

NOW = datetime.now(UTC)


class AfterRound(SilentObserver):
    """Does something when a round is on disk."""

    def __init__(self, number, act):
        self.number, self.act = number, act

    def round_finished(self, record):
        """As an operator who types while the run goes on."""
        if record.round == self.number:
            self.act()


@pytest.fixture
def fleet(small_fleet, tmp_path):
    """The CA, the server's folder and a node for each vehicle."""
    authority = FleetAuthority.create(NOW)
    depot = authority.issue("depot", Role.AGGREGATOR, NOW)
    key = generate_sealing_key("x25519", os.urandom)
    save_party(tmp_path / "depot", authority, depot.certificate, depot.signing_key, key)
    nodes = {}
    for number, (name, path) in enumerate(small_fleet.vehicles.items()):
        identity = authority.issue(name, Role.VEHICLE, NOW)
        folder = tmp_path / "identities" / name
        save_party(folder, authority, identity.certificate, identity.signing_key)
        own = replace(load_vehicle_config(path), identity=str(folder), least_protection="sealed")
        save_vehicle_config(own, tmp_path / f"{name}.json")
        nodes[100 + number] = {"vehicle-config": str(tmp_path / f"{name}.json")}
    return authority, tmp_path / "depot", nodes


def run(fleet, update, out, act):
    _, depot, nodes = fleet
    settings = {
        "convoy-run": run_config_to_json(small_run(update=update, rounds=3)),
        "convoy-out": str(out),
        "convoy-keys": str(depot),
    }
    with InProcessGrid(make_client_app, nodes, engine="serial", run_config=settings) as grid:
        context = make_context(SERVER_NODE_ID, {}, settings, state=RecordDict())
        make_server_app(observer=AfterRound(1, act))(grid, context)
    return round_lines(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "update",
    [UpdateConfig(codec="masked", modulus_bits=12), UpdateConfig(codec="sealed", sealed_step=0.05)],
    ids=["masked", "sealed"],
)
def test_a_revocation_takes_effect_in_the_next_round(fleet, tmp_path, update):
    authority, depot, _ = fleet

    def revoke():
        authority.revoke("car3", NOW)
        key_files.write_file(depot / REVOCATIONS, authority.revocation_list)

    lines = run(fleet, update, tmp_path / "run", revoke)
    assert [line["completed"] for line in lines] == [6, 5, 5]
    assert [line["rejected"] for line in lines] == [{}, {"untrusted": 1}, {"untrusted": 1}]
    assert {one["vehicle"] for line in lines for one in line["rejections"]} == {"car3"}


@pytest.mark.slow
@pytest.mark.parametrize("bad", [b"", b"rubbish", None], ids=["empty", "rubbish", "gone"])
def test_a_list_that_cannot_be_read_costs_no_round(fleet, tmp_path, caplog, bad):
    _, depot, _ = fleet

    def spoil():
        (depot / REVOCATIONS).unlink()
        if bad is not None:
            (depot / REVOCATIONS).write_bytes(bad)

    lines = run(fleet, UpdateConfig(codec="masked", modulus_bits=12), tmp_path / "run", spoil)
    assert [line["completed"] for line in lines] == [6, 6, 6]
    assert "this round goes by the list held" in caplog.text


def test_an_older_list_is_never_gone_back_to(fleet):
    authority, depot, _ = fleet
    old = authority.revocation_list
    authority.revoke("car3", NOW)
    key_files.write_file(depot / REVOCATIONS, authority.revocation_list)
    party = load_party(depot, NOW)
    assert party.trust.revocations.number == 2
    key_files.write_file(depot / REVOCATIONS, old)
    assert with_newest_revocations(party, depot) is party
