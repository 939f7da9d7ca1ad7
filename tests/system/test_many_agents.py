"""Twenty agents in one masked round, four of them killed in the middle of it."""

import itertools
import logging
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_federation import model_bytes, protect, round_lines, run_small_federation, small_run
from small_fleet import record_small_fleet
from small_service import Service, status_of, wait_for_a_round, wait_until_finished

from convoy_compression.update.codec import UpdateConfig
from convoy_edge_client.vehicle_config import load_vehicle_config
from convoy_protos.flower_messages import CHECK_IN
from convoy_simulation import faults
from convoy_simulation.faults import FaultConfig, FaultRule
from convoy_simulation.vehicles import AGGREGATOR

logger = logging.getLogger(__name__)

AGENTS, KILLED = 20, 4
MASKED = UpdateConfig(codec="masked", modulus_bits=12, exchange_deadline_s=40.0)
NOT_IN_THE_ROSTER = "lost_before_check_in"
STAGES = ("train", "check_in", "share", "upload", "unmask")


@pytest.mark.drill
@pytest.mark.timeout(900)
def test_four_of_twenty_agents_die_and_the_sum_is_that_of_the_others(tmp_path, monkeypatch):
    monkeypatch.setitem(faults.FAULTS, NOT_IN_THE_ROSTER, faults.Fault(faults._vanish, CHECK_IN))
    chance = random.Random(time.time_ns())
    fleet = record_small_fleet(tmp_path / "fleet", vehicle_count=AGENTS)
    nodes = protect(fleet, MASKED)
    files = [Path(node["vehicle-config"]) for node in nodes.values()]
    run = small_run(
        rounds=2, update=MASKED, min_vehicles=AGENTS, quorum=10, evaluate_every=2, deadline_s=60.0
    )
    doomed = dict(
        zip(
            chance.sample(sorted(fleet.vehicles), KILLED),
            chance.choices(STAGES, k=KILLED),
            strict=True,
        )
    )
    logger.info("killed, each in its stage: %s", doomed)
    service = Service(tmp_path, files[0].parent / AGGREGATOR)
    try:
        service.start_server()
        for file in files:
            service.let_in(load_vehicle_config(file))
        service.start_agents()
        out = service.submit(run)
        # The range of sums is known after one round, so that the second is summed once.
        wait_for_a_round(out, "with everybody", 300)
        kill_in_their_stages(service, out, doomed)
        wait_until_finished(out, 300)
    finally:
        service.end()

    first, second = round_lines(out)
    (shard,) = second["shards"]
    logger.info("not in the sum: %s", sorted(set(fleet.vehicles) - set(shard["summed"])))
    assert (first["outcome"], second["outcome"]) == ("done", "done")
    assert len(first["shards"][0]["summed"]) == AGENTS
    missing = set(fleet.vehicles) - set(shard["summed"])
    assert missing <= set(doomed)
    # Named as lost, or by the SuperLink as a node that has gone.
    refused = {one["vehicle"] for one in second["rejections"]}
    assert set(second["lost_vehicles"]) | refused == missing
    assert model_bytes(out) in models_without(missing, fleet, run, nodes, tmp_path)


def kill_in_their_stages(service, out, doomed):
    left = dict(doomed)
    while left and status_of(out).state == "running":
        phase = status_of(out).phase
        for name in [name for name, stage in left.items() if stage == phase]:
            service.kill(name)
            del left[name]
        time.sleep(0.002)
    for name in left:  # its stage was over before anybody looked
        service.kill(name)


def models_without(missing, fleet, run, nodes, folder):
    """Those of calm simulations; who was lost may have been in the roster of the sum or not."""
    for number, kinds in enumerate(
        itertools.product(
            ("never_answers", NOT_IN_THE_ROSTER, "lost_before_upload"), repeat=len(missing)
        )
    ):
        rules = {
            name: FaultRule(kind=kind, rounds=(2,))
            for name, kind in zip(sorted(missing), kinds, strict=True)
        }
        calm = replace(run, round=replace(run.round, deadline_s=5.0))
        out = folder / f"calm{number}"
        run_small_federation(fleet, calm, out, nodes=nodes, faults=FaultConfig(vehicles=rules))
        yield model_bytes(out)
