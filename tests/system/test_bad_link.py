"""A vehicle behind a link of 1 Mbit/s, 200 ms and 5 % loss: a masked round of a million parameters."""

import logging
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from lossy_link import HERE, LinkConfig, LossyLink
from small_federation import protect, round_lines, small_run
from small_fleet import record_small_fleet
from small_service import Service, status_of, wait_for_a_round, wait_until_finished

from convoy_compression.update.codec import UpdateConfig
from convoy_driving.data_config import DataConfig
from convoy_driving.models.registry import ModelConfig
from convoy_edge_client.vehicle_config import load_vehicle_config
from convoy_simulation.vehicles import AGGREGATOR

logger = logging.getLogger(__name__)

LTE = LinkConfig(bits_per_s=1e6, delay_s=0.1, loss=0.05)
MASKED = UpdateConfig(codec="masked", exchange_deadline_s=300.0)
CUT_S = 30.0
LARGEST_PIECE = 5 * 2**20
MOST_OVERHEAD = 1.15

pytestmark = [
    pytest.mark.drill,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        os.geteuid() != 0 or not Path("/dev/net/tun").exists(), reason="needs root and TUN devices"
    ),
]


@pytest.mark.parametrize("cut", [False, True], ids=["slow and lossy", "and cut for 30 s"])
def test_a_million_parameters_come_through(tmp_path, cut):
    fleet = record_small_fleet(tmp_path / "fleet", vehicle_count=3)
    nodes = protect(fleet, MASKED)
    files = [Path(node["vehicle-config"]) for node in nodes.values()]
    run = small_run(
        rounds=2, update=MASKED, min_vehicles=3, quorum=3, evaluate_every=2, deadline_s=900.0
    )
    run = replace(
        run, model=ModelConfig(), data=DataConfig(frame_height=104, frame_width=136)
    )  # 1,042,680 parameters
    far = "car0"
    with LossyLink(LTE) as link:
        service = Service(tmp_path, files[0].parent / AGGREGATOR, HERE)
        try:
            service.start_server()
            for file in files:
                service.let_in(load_vehicle_config(file))
            service.start_agents("car1", "car2")
            service.start_agent(far, link.command())
            begin_s, before = time.monotonic(), list(link.sent)
            out = service.submit(run)
            wait_for_a_round(out, "over the link", 900)
            first_s = time.monotonic() - begin_s
            if cut:
                cut_in_upload(link, out)
            wait_until_finished(out, 900)
            down, up = (now - then for now, then in zip(link.sent, before, strict=True))
        finally:
            service.end()
    lines = round_lines(out)
    assert [line["outcome"] for line in lines] == ["done", "done"]
    assert all(far in line["shards"][0]["summed"] for line in lines)
    payload_up = sum(line["bytes"][far]["uplink"] for line in lines)
    payload_down = sum(line["bytes"][far]["downlink"] for line in lines)
    logger.info(
        "first round %.0f s; on the interface, over the payload: up %d / %d = %.3f, down %d / %d = %.3f, "
        "both %.3f",
        first_s,
        *(up, payload_up, up / payload_up),
        *(down, payload_down, down / payload_down),
        (up + down) / (payload_up + payload_down),
    )
    twice = LARGEST_PIECE if cut else 0
    assert up + down <= MOST_OVERHEAD * (payload_up + payload_down) + twice


def cut_in_upload(link, out):
    """Half a minute without a packet, in the middle of the update."""
    while status_of(out).phase != "upload":
        time.sleep(0.01)
    begin = link.sent[1]
    while link.sent[1] - begin < 300_000:
        time.sleep(0.01)
    link.cut()
    time.sleep(CUT_S)
    link.mend()
