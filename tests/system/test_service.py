"""The cloud service and resident agents, as processes on 127.0.0.1: a run comes through whatever dies."""

import contextlib
from pathlib import Path

import pytest
from small_federation import (
    PLAIN,
    model_bytes,
    protect,
    round_lines,
    run_small_federation,
    small_run,
)
from small_fleet import record_small_fleet
from small_service import Service, wait_for_a_round, wait_until_finished

from convoy_compression.update.codec import UpdateConfig
from convoy_edge_client.vehicle_config import load_vehicle_config
from convoy_server.audit import verify_audit
from convoy_simulation.vehicles import AGGREGATOR

MASKED = UpdateConfig(codec="masked", modulus_bits=12, exchange_deadline_s=100.0)


@pytest.fixture
def serve(tmp_path):
    """Makes the service; nothing of it runs afterwards."""
    with contextlib.ExitStack() as stack:

        def make(aggregator="aggregator"):
            service = Service(tmp_path, aggregator)
            stack.callback(service.end)
            return service

        yield make


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_survives_the_death_of_every_process(serve, tmp_path):
    fleet = record_small_fleet(tmp_path / "fleet", vehicle_count=2)
    service = serve()
    service.start_server()
    for file in fleet.vehicles.values():
        service.let_in(load_vehicle_config(file))
    service.start_agents()
    rounds = 12
    out = service.submit(small_run(rounds=rounds, evaluate_every=4, update=PLAIN, min_vehicles=2))
    wait_for_a_round(out, "in all")
    for module in ("serverapp_process", "executor", "two_doors"):
        service.kill_below_server(module)
        wait_for_a_round(out, f"after the death of {module}")
    wait_until_finished(out)
    assert [line["round"] for line in round_lines(out)] == list(range(1, rounds + 1))
    assert all(line["outcome"] == "done" for line in round_lines(out))
    verify_audit(out)
    for name in fleet.vehicles:
        assert service.processes[name].poll() is None
        assert "connected as node" in (tmp_path / f"{name}.log").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_survives_power_cuts_and_ends_with_the_model_of_a_calm_simulation(serve, tmp_path):
    """Masked sums are sums of integers: nothing but lost or doubled work could change the model."""
    fleet = record_small_fleet(tmp_path / "fleet", vehicle_count=3)
    nodes = protect(fleet, MASKED)
    run = small_run(rounds=5, evaluate_every=5, update=MASKED, min_vehicles=3, quorum=3)
    files = [Path(node["vehicle-config"]) for node in nodes.values()]
    service = serve(aggregator=files[0].parent / AGGREGATOR)
    service.start_server()
    for file in files:
        service.let_in(load_vehicle_config(file))
    service.start_agents()
    out = service.submit(run)
    wait_for_a_round(out, "in all")

    service.kill("server")
    service.start_server()
    wait_for_a_round(out, "after the death of the supervisor")

    service.kill(*service.processes)
    service.start_server()
    service.start_agents()
    wait_for_a_round(out, "after the death of everything")

    server = service.processes["server"]
    server.terminate()
    assert server.wait(timeout=60) == 0
    service.start_server()
    wait_until_finished(out)

    run_small_federation(fleet, run, tmp_path / "calm", nodes=nodes)
    assert all(line["outcome"] == "done" for line in round_lines(out))
    assert [line["round"] for line in round_lines(out)] == [1, 2, 3, 4, 5]
    assert model_bytes(out) == model_bytes(tmp_path / "calm")
    verify_audit(out)
