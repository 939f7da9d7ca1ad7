"""Fifty processes of a fleet are killed at random moments of one run, and the run does not notice."""

import logging
import random
import time
from pathlib import Path

import psutil
import pytest
from small_federation import model_bytes, protect, round_lines, run_small_federation, small_run
from small_fleet import record_small_fleet
from small_service import Service, finished_rounds, status_of, wait_until_finished

from convoy_compression.update.codec import UpdateConfig
from convoy_edge_client.vehicle_config import load_vehicle_config
from convoy_server.audit import verify_audit
from convoy_simulation.vehicles import AGGREGATOR

logger = logging.getLogger(__name__)

KILLS, ROUNDS, AGENTS = 50, 20, 3
MASKED = UpdateConfig(codec="masked", modulus_bits=12, exchange_deadline_s=100.0)
BELOW_SERVER = ("serverapp_process", "executor", "two_doors")


@pytest.mark.drill
@pytest.mark.timeout(3600)
def test_fifty_random_kills_cost_no_round(tmp_path):
    seed = time.time_ns()
    chance = random.Random(seed)
    fleet = record_small_fleet(tmp_path / "fleet", vehicle_count=AGENTS)
    nodes = protect(fleet, MASKED)
    files = [Path(node["vehicle-config"]) for node in nodes.values()]
    run = small_run(
        rounds=ROUNDS, update=MASKED, min_vehicles=AGENTS, quorum=AGENTS, evaluate_every=5
    )
    service = Service(tmp_path, files[0].parent / AGGREGATOR)
    killed = []
    try:
        service.start_server()
        for file in files:
            service.let_in(load_vehicle_config(file))
        service.start_agents()
        out = service.submit(run)
        while len(killed) < KILLS:
            assert status_of(out).state in ("queued", "waiting", "running")
            # Rounds must last until the last kill, and kills must not keep rounds from ending.
            due = finished_rounds(out) * KILLS / (ROUNDS - 1) >= len(killed)
            time.sleep(chance.uniform(0.0, 2.0))
            if due:
                killed += kill_one(
                    service, chance.choice(["server", *BELOW_SERVER, *fleet.vehicles])
                )
        wait_until_finished(out, 600)
    finally:
        service.end()
    counts = {name: killed.count(name) for name in sorted(set(killed))}
    logger.info("seed %d, killed: %s", seed, counts)

    lines = round_lines(out)
    assert [line["round"] for line in lines] == list(range(1, ROUNDS + 1))
    assert [line["outcome"] for line in lines] == ["done"] * ROUNDS
    verify_audit(out)
    run_small_federation(fleet, run, tmp_path / "calm", nodes=nodes)
    assert model_bytes(out) == model_bytes(tmp_path / "calm")


def kill_one(service, victim):
    """Kill it and do what systemd does; nothing where it does not run just now."""
    if victim in BELOW_SERVER:
        try:
            service.kill_below_server(victim)
        except (AssertionError, psutil.NoSuchProcess):
            return []
    else:
        service.kill(victim)
        if victim == "server":
            service.start_server()
        else:
            service.start_agent(victim)
    return [victim]
