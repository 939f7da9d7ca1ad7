"""The same two apps in Flower's own Ray simulation end with the model of the in-process grid."""

import os
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_federation import PLAIN, protect, round_lines, run_small_federation, small_run
from small_fleet import record_small_fleet

from convoy_compression.update.codec import UpdateConfig
from convoy_driving.parameters import load_parameters
from convoy_edge_client.vehicle_config import load_vehicle_config, save_vehicle_config
from convoy_server.run_config import run_config_to_json

pytest.importorskip("ray", reason="needs the optional package ray")

PROGRAM = Path(__file__).parents[1] / "ray_federation.py"
# An actor of Ray's takes its time to start.
MASKED = UpdateConfig(codec="masked", modulus_bits=12, exchange_deadline_s=100.0)


def three_vehicles(folder):
    """A fleet with identities whose vehicles send whatever is asked for; its nodes and their list."""
    fleet = record_small_fleet(folder, vehicle_count=3)
    nodes = protect(fleet, MASKED)
    files = [Path(node["vehicle-config"]) for node in nodes.values()]
    for file in files:
        save_vehicle_config(replace(load_vehicle_config(file), least_protection="none"), file)
    return fleet, nodes, files[0].parent / "fleet.json"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("update", "tolerance"),
    [
        (PLAIN, 1e-5),  # Ray's replies come in any order, and a sum of floats depends on its order
        (MASKED, 0.0),  # a sum of integers does not
    ],
    ids=["plain", "masked"],
)
def test_flowers_own_simulation_gives_the_same_model_and_leaves_no_process(
    tmp_path, update, tolerance
):
    fleet, nodes, fleet_file = three_vehicles(tmp_path / "fleet")
    run = small_run(update=update)
    run_small_federation(fleet, run, tmp_path / "in_process", nodes=nodes)
    run_file = tmp_path / "run.json"
    run_file.write_text(run_config_to_json(run))
    mark = f"CONVOY_TEST_MARK={uuid.uuid4().hex}"
    environment = {
        **os.environ,
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        **dict([mark.split("=")]),
    }

    subprocess.run(
        [sys.executable, str(PROGRAM), str(fleet_file), str(run_file), str(tmp_path / "ray")],
        env=environment,
        check=True,
        timeout=240,
    )

    in_ray, alone = (
        load_parameters(tmp_path / run / "model.safetensors")[0] for run in ("ray", "in_process")
    )
    np.testing.assert_allclose(in_ray, alone, rtol=0, atol=tolerance)
    for line in round_lines(tmp_path / "ray"):
        assert (line["completed"], line["rejected"], line["lost"]) == (3, {}, 0)
        assert [shard["summed"] for shard in line["shards"]] == (
            [["car0", "car1", "car2"]] if update is MASKED else []
        )
    patience_s = time.monotonic() + 30  # Ray's actors end when they notice that Ray has
    while processes_with(mark) and time.monotonic() < patience_s:
        time.sleep(0.2)
    assert processes_with(mark) == []


def processes_with(mark):
    """Command lines of the processes that have this in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes())
            except OSError:
                continue
    return found
